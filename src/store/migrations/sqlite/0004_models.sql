-- The deployment (owner/name) that a prediction was created by, and how often a model was run.
ALTER TABLE predictions ADD COLUMN deployment TEXT;

CREATE INDEX predictions_models ON predictions (model);

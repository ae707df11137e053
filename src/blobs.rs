//! Output bytes over `object_store`, named by unguessable capability paths.

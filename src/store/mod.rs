//! Durable truth and the queue. The only room that contains SQL.

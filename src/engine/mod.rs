//! Step-level batching: one thread per device, `admit → step → retire`. No async and no I/O.

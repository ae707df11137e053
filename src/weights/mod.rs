//! Model manifests to files (hub download, local directory, built in) to tensors.

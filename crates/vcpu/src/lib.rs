//! CPU model, boot registers, vCPU threads with a kick and a stop barrier.

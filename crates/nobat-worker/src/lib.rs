//! The worker: leases jobs in batches and runs them on ONNX Runtime.

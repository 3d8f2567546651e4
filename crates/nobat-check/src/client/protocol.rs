//! The ways to ask, by name.

/// A way to ask a server for a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallProtocol {
    /// The Open Inference Protocol over HTTP, tensors as bytes.
    V2Binary,
    /// The same, tensors as JSON.
    V2,
    /// The Open Inference Protocol over gRPC.
    Grpc,
    /// TensorFlow Serving's REST.
    TfServing,
    /// nobat's own API, waiting for the answer.
    Native,
    /// A job of nobat's own API: enqueue, then poll for the result.
    Job,
    /// A server's own JSON, by a template.
    Json,
}

impl CallProtocol {
    /// All, those that round nothing first.
    pub const ALL: [CallProtocol; 7] = [
        CallProtocol::V2Binary,
        CallProtocol::V2,
        CallProtocol::Grpc,
        CallProtocol::TfServing,
        CallProtocol::Native,
        CallProtocol::Job,
        CallProtocol::Json,
    ];

    /// As it is written on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            CallProtocol::V2Binary => "v2-binary",
            CallProtocol::V2 => "v2",
            CallProtocol::Grpc => "grpc",
            CallProtocol::TfServing => "tfserving",
            CallProtocol::Native => "native",
            CallProtocol::Job => "job",
            CallProtocol::Json => "json",
        }
    }

    /// The protocol of this name.
    pub fn parse(name: &str) -> Option<CallProtocol> {
        CallProtocol::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

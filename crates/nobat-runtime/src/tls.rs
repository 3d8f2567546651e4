//! Whose cryptography TLS uses: ring's, in every program and on every connection.

/// Has the TLS clients of this process use it. Whoever builds an HTTP client calls
/// this before; calling it again changes nothing.
pub fn use_ring() {
    // An error says that a provider is in use already: ours, from an earlier call.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

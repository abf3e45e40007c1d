//! What verifiers leave to the verifier in them.

/// The methods that rustls's traits for both sides have in common: the verifier in this field has the answer. None may be left
/// out, since their defaults would answer in its place.
macro_rules! signatures_are_verified_by {
    ($inner:ident) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.$inner.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.$inner.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.$inner.supported_verify_schemes()
        }

        fn requires_raw_public_keys(&self) -> bool {
            self.$inner.requires_raw_public_keys()
        }
    };
}
pub(crate) use signatures_are_verified_by;

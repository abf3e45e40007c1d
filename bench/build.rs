//! Describes the service for the peer tonic, so that the build needs no protoc.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "peers")]
    {
        use tonic_build::manual::{Builder, Method, Service};
        let body = "crate::subjects::peers::tonic::Body";
        let echo = Method::builder()
            .name("echo")
            .route_name("Echo")
            .input_type(body)
            .output_type(body)
            .codec_path("tonic_prost::ProstCodec")
            .build();
        let service = Service::builder().name("Echo").package("bench").method(echo).build();
        Builder::new().compile(&[service]);
    }
}

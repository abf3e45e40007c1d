//! etcd in TLS.
#![cfg(all(unix, feature = "tls"))]
#![allow(missing_docs)]

mod util;

use oncewire_etcd::{ClientTls, Etcd, EtcdErrorKind};
use rcgen::{CertificateParams, KeyPair, SanType};
use util::*;

/// A certificate for `127.0.0.1` that signs itself, in this folder.
fn certificate(folder: &std::path::Path, name: &str) -> Tls {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let tls = Tls {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    std::fs::write(&tls.certificate, made.pem()).unwrap();
    std::fs::write(&tls.key, key.serialize_pem()).unwrap();
    tls
}

#[test]
fn a_certificate_that_is_trusted_and_one_that_is_not() {
    let folder = std::env::temp_dir().join(format!("oncewire-etcd-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (right, wrong) = (certificate(&folder, "right"), certificate(&folder, "wrong"));
    let trusting = |tls: &Tls| {
        ClientTls::builder().authorities_file(&tls.certificate).without_alpn().build().unwrap()
    };
    let (trusts_it, trusts_another) = (trusting(&right), trusting(&wrong));
    let Some(cluster) = Cluster::start_with(1, Some(right)) else { return };
    smol::block_on(async {
        let etcd = Etcd::builder(cluster.endpoints()).tls(trusts_it).build().unwrap();
        etcd.put("a", "1", None).await.unwrap();
        assert_eq!(etcd.get("a").await.unwrap().unwrap().value, b"1");
        let mut watch = etcd.watch_prefix("a", 1).await.unwrap();
        assert_eq!(watch.next().await.unwrap().len(), 1);

        let etcd = Etcd::builder(cluster.endpoints()).tls(trusts_another).build().unwrap();
        let error = etcd.get("a").await.unwrap_err();
        assert_eq!(error.kind(), EtcdErrorKind::Denied, "{error}");
        // Without TLS it is an error as well, and says which.
        let plain = cluster.endpoint(0).replace("https://", "");
        let error = Etcd::builder([plain]).build().unwrap().get("a").await.unwrap_err();
        assert_ne!(error.kind(), EtcdErrorKind::Denied, "{error}");
    });
    let _gone = std::fs::remove_dir_all(&folder);
}

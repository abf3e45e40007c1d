//! Dials, and makes the handshake.

use std::fmt;
use std::io;

use oncewire_driver::{BoxFuture, BoxStream, Connect};
use rustls::pki_types::ServerName;

use crate::client::ClientTls;
use crate::error::{Side, explain, is_verdict};
use crate::examine::{Examination, examine};
use crate::tls_stream::{Paced, Stream};

/// Dials by another connector, and speaks TLS on what that connects to.
///
/// A certificate that is not accepted, on either side, is an error of the kind
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) that says what is wrong with it; a server that does not speak TLS,
/// or no common version of it, one of the kind [`Unsupported`](io::ErrorKind::Unsupported). What a server says of *this*
/// side's certificate comes after the handshake (in TLS 1.3), as the first error of a read.
///
/// ```no_run
/// use oncewire_tls::{ClientTls, TlsConnector};
/// # fn f(tcp: impl oncewire_tls::Connect) -> std::io::Result<()> {
/// let tls = ClientTls::builder().authorities_file("authority.pem").build()?;
/// let connector = TlsConnector::new(tcp, tls, "bank.example.org")?;
/// # drop(connector); Ok(()) }
/// ```
pub struct TlsConnector<C> {
    inner: C,
    tls: ClientTls,
    name: ServerName<'static>,
}

impl<C: Connect> TlsConnector<C> {
    /// The server must have a certificate for `name`, a DNS name or an IP address. `tls` may be an `Arc<ClientConfig>` of
    /// the program's own.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if that is neither.
    pub fn new(inner: C, tls: impl Into<ClientTls>, name: &str) -> io::Result<TlsConnector<C>> {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| {
            let message = format!("{name:?} is neither a DNS name nor an IP address");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        Ok(TlsConnector { inner, tls: tls.into(), name: server })
    }

    /// Dials, makes a handshake and ends it; says what the server has shown, also where it is not accepted. Nothing else is
    /// sent, and what is accepted is what [`connect`](Connect::connect) accepts.
    ///
    /// A configuration of the program's own judges by itself: of it, certificates are shown only if they were accepted.
    ///
    /// ```no_run
    /// # async fn f(connector: oncewire_tls::TlsConnector<impl oncewire_tls::Connect>) -> std::io::Result<()> {
    /// let examination = connector.examine().await?;
    /// for certificate in &examination.certificates {
    ///     println!("{:?}", oncewire_tls::CertificateDetails::read(certificate)?);
    /// }
    /// println!("{:?}", examination.verdict);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// There is no connection on which to make a handshake. What the handshake ends with is in the
    /// [verdict](Examination::verdict).
    pub async fn examine(&self) -> io::Result<Examination> {
        let stream = self.inner.connect().await?;
        Ok(examine(&self.tls.current(), self.name.clone(), stream).await)
    }
}

impl<C> fmt::Debug for TlsConnector<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<C: Connect> Connect for TlsConnector<C> {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = Paced::new(self.inner.connect().await?);
            // Also where this is dropped because the handshake takes too long.
            let unfinished = Unfinished(&self.inner);
            let tls = futures_rustls::TlsConnector::from(self.tls.current().config.clone());
            let stream = tls.connect(self.name.clone(), stream).await;
            let stream = stream.map_err(|error| explain(Side::Client, true, error))?;
            std::mem::forget(unfinished);
            Ok(Box::new(Stream::new(stream.into(), Side::Client)) as BoxStream)
        })
    }

    fn address(&self) -> String {
        format!("tls:{}", self.inner.address())
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        is_verdict(error) || self.inner.is_permanent(error)
    }

    fn may_carry_token(&self) -> bool {
        true
    }

    fn handshake_failed(&self) {
        self.inner.handshake_failed();
    }
}

/// Says to the connector beneath that the handshake on its connection has failed.
struct Unfinished<'c, C: Connect>(&'c C);

impl<C: Connect> Drop for Unfinished<'_, C> {
    fn drop(&mut self) {
        self.0.handshake_failed();
    }
}

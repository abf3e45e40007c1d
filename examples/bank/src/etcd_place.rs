//! `etcd:HOST:PORT,HOST:PORT/NAME`: a ledger in etcd, and the name under which clients find the server that has it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use oncewire_etcd::{Etcd, EtcdError, Registry, RegistryConnector};

/// What it is called where no name is given.
const NAME: &str = "bank";
/// Bytes of the longest name.
const NAME_LEN_MAX: usize = 48;

/// How long a member may take to answer, before the next one is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// A name at an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtcdPlace {
    endpoints: Vec<String>,
    name: String,
}

impl FromStr for EtcdPlace {
    type Err = String;

    /// What is behind `etcd:`.
    fn from_str(text: &str) -> Result<EtcdPlace, String> {
        let (endpoints, name) = text.split_once('/').unwrap_or((text, NAME));
        let is_sound = (1..=NAME_LEN_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !is_sound {
            return Err(format!(
                "a name in etcd has 1 to {NAME_LEN_MAX} visible ASCII characters and no `/`, and not {name:?}"
            ));
        }
        let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
        let is_address = |text: &String| {
            let (host, port) = text.rsplit_once(':').unwrap_or_default();
            !host.is_empty() && port.parse::<u16>().is_ok()
        };
        if !endpoints.iter().all(is_address) {
            return Err("etcd: wants HOST:PORT,HOST:PORT/NAME, the ports numbers".to_owned());
        }
        Ok(EtcdPlace { endpoints, name: name.to_owned() })
    }
}

impl fmt::Display for EtcdPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd:{}/{}", self.endpoints.join(","), self.name)
    }
}

impl EtcdPlace {
    /// Those that are members of this place's cluster.
    pub(crate) fn new(endpoints: Vec<String>) -> EtcdPlace {
        EtcdPlace { endpoints, name: NAME.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn etcd(&self) -> Result<Etcd, EtcdError> {
        Etcd::builder(&self.endpoints).attempt_timeout(ATTEMPT_TIMEOUT).build()
    }

    /// Dials the server that is registered there.
    pub(crate) fn connector(&self) -> Result<RegistryConnector, EtcdError> {
        Registry::new(self.etcd()?).connector(&self.name)
    }
}

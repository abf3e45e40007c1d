//! Names, and the instances under them.

use std::net::SocketAddr;
use std::time::Duration;

use oncewire_driver::{Server, ServerId};
use serde_json::{Value, json};

use crate::client::Etcd;
use crate::connector::RegistryConnector;
use crate::election::Election;
use crate::error::EtcdError;
use crate::instances::Instances;
use crate::registration::Registration;

/// Services and their instances in etcd. Cheap to clone.
///
/// An instance is a key, `oncewire/services/SERVICE/NUMBER`, whose value is JSON and which goes with its lease.
#[derive(Clone, Debug)]
pub struct Registry {
    etcd: Etcd,
    prefix: String,
    lease: Duration,
}

/// Bytes of the longest name of a service or an election, as the handshake has it.
const NAME_LEN_MAX: usize = 64;
/// Bytes of the longest address.
const ADDRESS_LEN_MAX: usize = 512;
/// Bytes of the longest value that is read: other ones are no instances.
const VALUE_LEN_MAX: usize = 4096;

impl Registry {
    /// The registry under `oncewire/`, with leases of 5 s.
    pub fn new(etcd: Etcd) -> Registry {
        Registry { etcd, prefix: "oncewire/".to_owned(), lease: Duration::from_secs(5) }
    }

    /// Puts another text in front of all keys: the user at etcd may have rights to these only.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Registry {
        self.prefix = prefix.into();
        self
    }

    /// How long an instance stays after it has died, and a leader before another one can be elected; in whole seconds, and at
    /// least as long as etcd's elections take (2 s by its defaults). Shorter ones end by mistake where etcd is slow.
    pub fn with_lease(mut self, lease: Duration) -> Registry {
        self.lease = lease;
        self
    }

    /// Registers a server, which listens at `address`, for as long as it lives: until the [`Registration`] is dropped, or the
    /// process has ended for the length of the lease. The address is what other machines dial, so not `0.0.0.0`.
    ///
    /// It returns at once, and what cannot be done now is done later: see [`Registration::until_registered`].
    ///
    /// # Errors
    /// [`InvalidInput`](crate::EtcdErrorKind::InvalidInput): the name is empty, longer than 64 bytes, or has a `/`; the address is
    /// empty, longer than 512 bytes, or `0.0.0.0` or `[::]`.
    pub fn register(
        &self,
        server: &Server,
        service: &str,
        address: &str,
    ) -> Result<Registration, EtcdError> {
        let folder = self.folder("services", service)?;
        if !is_address(address) {
            let message = "an address has 1 to 512 bytes and no control characters";
            return Err(EtcdError::invalid(message));
        }
        if address.parse().is_ok_and(|of: SocketAddr| of.ip().is_unspecified()) {
            let message = format!("{address} is where to listen, and no address to dial");
            return Err(EtcdError::invalid(message));
        }
        Ok(Registration::begin(self.etcd.clone(), self.lease, folder, server.clone(), address))
    }

    /// Follows the instances of a service.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::EtcdErrorKind::InvalidInput), as [`register`](Registry::register) has it.
    pub fn instances(&self, service: &str) -> Result<Instances, EtcdError> {
        Ok(Instances::follow(self.etcd.clone(), service, self.folder("services", service)?))
    }

    /// Dials the instances of a service over TCP.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::EtcdErrorKind::InvalidInput), as [`register`](Registry::register) has it.
    pub fn connector(&self, service: &str) -> Result<RegistryConnector, EtcdError> {
        Ok(RegistryConnector::new(self.instances(service)?))
    }

    /// An election of this name.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::EtcdErrorKind::InvalidInput), as [`register`](Registry::register) has it.
    pub fn election(&self, name: &str) -> Result<Election, EtcdError> {
        let mut key = self.folder("elections", name)?;
        key.pop();
        Ok(Election::new(self.etcd.clone(), key, self.lease))
    }

    #[cfg(feature = "ledger")]
    pub(crate) fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The beginning of all keys that belong to a name.
    pub(crate) fn folder(&self, kind: &str, name: &str) -> Result<String, EtcdError> {
        let is_sound = (1..=NAME_LEN_MAX).contains(&name.len())
            && !name.contains(|char: char| char == '/' || char.is_control());
        if !is_sound {
            let message = "a name has 1 to 64 bytes, no `/` and no control characters";
            return Err(EtcdError::invalid(message));
        }
        Ok(format!("{}{kind}/{name}/", self.prefix))
    }
}

fn is_address(text: &str) -> bool {
    (1..=ADDRESS_LEN_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// Whether an instance takes calls, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstanceState {
    /// It does.
    Serving,
    /// It does not now: its ledger cannot write. It is dialled if no other one can be.
    Unready,
    /// It shuts down: those that have a session there may finish.
    Draining,
}

/// An instance of a service, as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredInstance {
    /// Where it listens.
    pub address: String,
    /// The set of records that it has: another instance with the same one can resume its sessions.
    pub server: ServerId,
    /// The [number](oncewire_driver::Instance::id) of this start of the server.
    pub instance: u64,
    /// The [name](oncewire_driver::Instance::name) of the server.
    pub name: String,
    /// Whether it takes calls.
    pub state: InstanceState,
    /// The key of its entry in etcd.
    pub(crate) key: Vec<u8>,
}

impl RegisteredInstance {
    pub(crate) fn to_value(&self) -> String {
        let state = match self.state {
            InstanceState::Serving => "serving",
            InstanceState::Unready => "unready",
            InstanceState::Draining => "draining",
        };
        json!({
            "address": self.address, "server": self.server.to_string(),
            "instance": format!("{:016x}", self.instance), "name": self.name, "state": state,
        })
        .to_string()
    }

    /// `None` if that is no instance. A later version may say more.
    pub(crate) fn parse(key: &[u8], value: &[u8]) -> Option<RegisteredInstance> {
        if value.len() > VALUE_LEN_MAX {
            return None;
        }
        let value: Value = serde_json::from_slice(value).ok()?;
        let text = |field: &str| value[field].as_str();
        let address = text("address").filter(|address| is_address(address))?;
        // It is shown to people, and is a stranger's.
        let name = text("name").unwrap_or_default().replace(char::is_control, "");
        let server = text("server").filter(|digits| digits.len() == 32)?;
        let state = match text("state")? {
            "serving" => InstanceState::Serving,
            "draining" => InstanceState::Draining,
            _ => InstanceState::Unready,
        };
        Some(RegisteredInstance {
            address: address.to_owned(),
            server: ServerId::from_bytes(u128::from_str_radix(server, 16).ok()?.to_be_bytes()),
            instance: u64::from_str_radix(text("instance")?, 16).ok()?,
            name,
            state,
            key: key.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_there_and_back_and_what_is_none() {
        let instance = RegisteredInstance {
            address: "[::1]:7000".to_owned(),
            server: ServerId::from_bytes(*b"\x010123456789abcd\xff"),
            instance: 0xfedc_ba98_7654_3210,
            name: "a \"name\"".to_owned(),
            state: InstanceState::Draining,
            key: b"key".to_vec(),
        };
        let value = instance.to_value();
        assert_eq!(RegisteredInstance::parse(b"key", value.as_bytes()), Some(instance));
        let later = value.replacen('{', "{\"zone\":[1,2],", 1).replace("draining", "resting");
        let later = RegisteredInstance::parse(b"key", later.as_bytes()).unwrap();
        assert_eq!(later.state, InstanceState::Unready);
        for at in 0..value.len() {
            assert_eq!(RegisteredInstance::parse(b"key", &value.as_bytes()[..at]), None);
            let mut bytes = value.clone().into_bytes();
            bytes[at] = bytes[at].wrapping_add(0x80);
            let _any = RegisteredInstance::parse(b"key", &bytes);
        }
        for none in ["", "10.0.0.1:7000", "7", "[]", "{\"address\":7}", "{\"address\":\"\"}"] {
            assert_eq!(RegisteredInstance::parse(b"key", none.as_bytes()), None);
        }
    }
}

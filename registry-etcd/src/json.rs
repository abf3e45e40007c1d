//! What etcd's gateway makes of protobuf: numbers of 64 bits as text, bytes as base64, defaults left out.

use serde_json::Value;

use crate::base64;
use crate::error::EtcdError;

/// A whole number; one that is left out is 0.
pub(crate) fn number(value: &Value) -> Result<i64, EtcdError> {
    let number = match value {
        Value::Null => Some(0),
        Value::String(digits) => digits.parse().ok(),
        other => other.as_i64(),
    };
    number.ok_or_else(|| EtcdError::malformed("etcd's answer has something else for a number"))
}

/// A number that is never negative: a revision, say.
pub(crate) fn natural(value: &Value) -> Result<u64, EtcdError> {
    let negative = || EtcdError::malformed("etcd's answer has a number below zero");
    u64::try_from(number(value)?).map_err(|_| negative())
}

/// Bytes; those that are left out are none.
pub(crate) fn bytes(value: &Value) -> Result<Vec<u8>, EtcdError> {
    let bytes = match value {
        Value::Null => Some(Vec::new()),
        other => other.as_str().and_then(base64::decode),
    };
    bytes.ok_or_else(|| EtcdError::malformed("etcd's answer has something else for bytes"))
}

/// A list; one that is left out is empty.
pub(crate) fn list(value: &Value) -> Result<&[Value], EtcdError> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        _ => Err(EtcdError::malformed("etcd's answer has something else for a list")),
    }
}

/// The revision that an answer is of.
pub(crate) fn revision(answer: &Value) -> Result<u64, EtcdError> {
    match natural(&answer["header"]["revision"])? {
        0 => Err(EtcdError::malformed("etcd's answer has no revision")),
        revision => Ok(revision),
    }
}

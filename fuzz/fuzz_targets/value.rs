//! Shared by the targets of the codecs: a type with everything that serde's types have, and no bottom.

use offspring::{Carries, Input, Output};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Nothing,
    Flag(bool),
    Number(i64),
    Text(String),
    Maybe(Option<Box<Value>>),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
    Pair(u8, char),
    Fields { name: String, sizes: Vec<u16> },
}

/// Whatever is decoded, is what its encoding is decoded to. Nothing panics, and no stack overflows.
pub fn check<C: for<'a> Carries<'a, Value>>(data: &[u8]) {
    let Ok(value) = C::decode(&mut Input::from(data)) else {
        return;
    };
    let mut output = Output::default();
    C::encode(&value, &mut output).expect("what was decoded can be encoded");
    let encoded = output.into_vec();
    let mut bytes = Input::from(&encoded[..]);
    let again = C::decode(&mut bytes);
    assert_eq!(again.expect("what was encoded can be decoded"), value);
    // Whatever follows it is too much, but blanks after JSON.
    for tail in [data, &data[..data.len().min(1)]] {
        let mut longer = Input::from([&encoded, tail].concat());
        assert!(tail.trim_ascii().is_empty() || C::decode(&mut longer).is_err());
    }
}

//! Descriptors as values of serde's: a value is a structure with the index of one among those of its message.
//! A bare number could be taken for another value where a type says nothing of which it is.

use super::{CodecError, Input, Output};
use crate::fd::Fd;
use crate::sys::Lent;
use crate::wire::Fds;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeStruct, Serializer};
use std::fmt;

thread_local! {
    /// Those of the message that is encoded on this thread.
    static ENCODED: Lent<Vec<Fd>> = const { Lent::new() };
    /// Those of the message that is decoded on this thread.
    static DECODED: Lent<Fds> = const { Lent::new() };
}

/// Encodes a value that may contain descriptors.
pub(super) fn encode<R>(
    output: &mut Output,
    encode: impl FnOnce(&mut Output) -> Result<(), R>,
) -> Result<(), R> {
    let mut fds = output.body().take_fds();
    let encoded = ENCODED.with(|lent| lent.lend(&mut fds, || encode(output)));
    for fd in fds {
        output.attach(fd);
    }
    encoded
}

/// Decodes a value that may contain descriptors.
pub(super) fn decode<'a, T>(
    input: &'a mut Input<'_>,
    decode: impl FnOnce(&'a [u8]) -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    let mut fds = input.split_fds();
    let bytes = &input[..];
    DECODED.with(|lent| lent.lend(&mut fds, || decode(bytes)))
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let attach = |fds: &mut Vec<Fd>| {
            fds.push(self.clone());
            fds.len() as u32 - 1
        };
        match ENCODED.with(|lent| lent.with(attach)) {
            Some(index) => {
                let mut value = serializer.serialize_struct("Fd", 1)?;
                value.serialize_field(INDEX, &index)?;
                value.end()
            }
            None => Err(S::Error::custom(
                "a descriptor can be sent to a child or a parent, and written nowhere else",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = deserializer.deserialize_struct("Fd", &[INDEX], Index)?;
        let found = DECODED.with(|lent| lent.with(|fds| fds.get(index as usize)));
        let found = found.unwrap_or_else(|| {
            Err("a descriptor can come from a child or a parent, and from nowhere else".to_owned())
        });
        found.map_err(D::Error::custom)
    }
}

/// The name of the only field.
const INDEX: &str = "fd";

/// Reads the structure: codecs write structures as maps or as lists.
struct Index;

impl<'de> Visitor<'de> for Index {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a descriptor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u32, A::Error> {
        let mut index = None;
        while let Some(name) = map.next_key::<String>()? {
            match name == INDEX {
                true => index = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        index.ok_or_else(|| A::Error::missing_field(INDEX))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u32, A::Error> {
        seq.next_element()?
            .ok_or_else(|| A::Error::missing_field(INDEX))
    }
}

#[cfg(test)]
#[cfg(feature = "json")]
mod tests {
    use super::*;
    use crate::codec::{Decode, Encode, Json};
    use crate::wire::Carrying;

    fn null() -> Fd {
        Fd::from(std::fs::File::open("/dev/null").unwrap())
    }

    fn input(bytes: &[u8], fds: Vec<Fd>) -> Input<'static> {
        let (bytes, fds) = (bytes.to_vec(), fds.into());
        Input::from(crate::wire::SmallBytes::from(Box::new(Carrying {
            bytes,
            fds,
        })))
    }

    #[test]
    fn descriptors_are_indices_in_the_order_in_which_they_are_written() {
        let (first, second) = (null(), null());
        let mut output = Output::default();
        assert_eq!(output.attach(null()), 0);
        let value = (first.clone(), "and", vec![second.clone(), first.clone()]);
        Json::encode(&value, &mut output).unwrap();
        let fds = output.body().take_fds();
        assert_eq!(fds.len(), 4);
        let json = output.into_vec();
        assert_eq!(json, br#"[{"fd":1},"and",[{"fd":2},{"fd":3}]]"#);
        let mut input = input(&json, fds);
        let (one, _, more): (Fd, String, Vec<Fd>) = Json::decode(&mut input).unwrap();
        let same = |one: &Fd, other: &Fd| one.is_clone_of(other);
        assert!(same(&one, &first) && same(&more[0], &second) && same(&more[1], &first));
        assert!(input.take_fds().unwrap().is_empty(), "the rest is closed");
    }

    #[test]
    fn index_of_no_descriptor_is_an_error() {
        let decoded = Json::decode(&mut input(br#"{"fd":1}"#, vec![null()])).map(|fd: Fd| fd);
        assert_eq!(
            decoded.unwrap_err().to_string(),
            "there is no descriptor 1: 1 came"
        );
        let decoded = Json::decode(&mut Input::from(&b"[0]"[..])).map(|fd: Fd| fd);
        assert_eq!(
            decoded.unwrap_err().to_string(),
            "there is no descriptor 0: 0 came"
        );
    }

    #[test]
    fn descriptor_is_no_value_where_none_are_sent() {
        let error = serde_json::to_string(&null()).unwrap_err();
        assert!(
            error.to_string().contains("written nowhere else"),
            "{error}"
        );
        let error = serde_json::from_str::<Fd>("{}").unwrap_err();
        assert!(error.to_string().contains("missing field `fd`"), "{error}");
        let error = serde_json::from_str::<Fd>("7").unwrap_err();
        assert!(
            error.to_string().contains("expected a descriptor"),
            "{error}"
        );
        let error = serde_json::from_str::<Fd>(r#"{"x":[1],"fd":0}"#).unwrap_err();
        assert!(error.to_string().contains("from nowhere else"), "{error}");
    }
}

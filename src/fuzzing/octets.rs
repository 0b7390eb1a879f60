use super::Script;
use crate::Strings;
use crate::codec::Input;
use crate::wire::octets::{self, OctetsError};

/// Octet strings: bytes are decoded as by a naive decoder, with the same error at the same offset,
/// and encoded strings survive a round trip.
pub fn octets(data: &[u8]) {
    let got: Vec<_> = octets::iter(data).collect();
    assert_eq!(got, naive(data));
    let mut strings = octets::iter(data);
    while let Some(Ok(string)) = strings.next() {
        assert!(data[..strings.offset()].ends_with(string));
    }
    match got.iter().copied().collect::<Result<Vec<_>, _>>() {
        Ok(strings) => round_trip(&strings, data),
        Err(error) => {
            let got = Strings::decode(Input::from(data)).unwrap_err();
            assert_eq!(got.to_string(), error.to_string());
        }
    }
    // Also use the input as strings to encode.
    let mut script = Script(data);
    let mut strings = Vec::new();
    while !script.0.is_empty() {
        strings.push(script.string());
    }
    round_trip(&strings, &octets::encode(&strings));
}

/// `encoded` is one possible encoding of these strings; its lengths may be longer than ours.
fn round_trip(strings: &[&[u8]], encoded: &[u8]) {
    let ours = octets::encode(strings);
    assert!(ours.len() <= encoded.len());
    let back: Vec<_> = octets::iter(&ours).map(Result::unwrap).collect();
    assert_eq!(back, strings);
    let decoded = Strings::decode(Input::from(encoded)).unwrap();
    let built: Strings = strings.iter().collect();
    let mut encoded = Vec::new();
    built.encoded().append_to(&mut encoded);
    assert_eq!(encoded, ours);
    assert_eq!(decoded, built);
    assert_eq!(decoded.len(), strings.len());
    assert_eq!(decoded.is_empty(), strings.is_empty());
    assert_eq!(decoded.get(strings.len()), None);
    assert!(strings.iter().enumerate().all(|(n, s)| &decoded[n] == *s));
    assert_eq!(decoded.to_string(), built.to_string());
}

fn naive(payload: &[u8]) -> Vec<Result<&[u8], OctetsError>> {
    let (mut strings, mut at) = (Vec::new(), 0);
    while at < payload.len() {
        let digits = payload[at..].iter().take_while(|digit| **digit >= 0x80);
        let digits = digits.count() + 1;
        let mut len = 0u128;
        for digit in payload[at..].iter().take(digits) {
            len = len * 128 + u128::from(digit % 128);
            if len > u64::MAX.into() {
                strings.push(Err(OctetsError::HugeLength { at }));
                return strings;
            }
        }
        let Some(rest) = payload.get(at + digits..) else {
            strings.push(Err(OctetsError::CutLength { at }));
            return strings;
        };
        if len > rest.len() as u128 {
            let (len, left) = (len as u64, rest.len());
            strings.push(Err(OctetsError::CutString { at, len, left }));
            return strings;
        }
        strings.push(Ok(&rest[..len as usize]));
        at += digits + len as usize;
    }
    strings
}

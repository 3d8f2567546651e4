//! One visitor for every reader that speaks serde: doubles come in, rounded to singles.

use std::fmt;

use nobat_core::tensor::put_bytes_element;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::{Numbers, Records};

pub fn numbers<'de, D: Deserializer<'de>>(text: D) -> Result<Numbers, String> {
    struct Body;
    impl<'de> Visitor<'de> for Body {
        type Value = Numbers;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with `instances`")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers, A::Error> {
            let mut found = None;
            while let Some(name) = map.next_key::<Name>()? {
                if name.0 != Member::Instances || found.is_some() {
                    return Err(de::Error::custom("the body takes `instances`, once"));
                }
                let mut numbers = Numbers { shape: vec![], data: Vec::with_capacity(1 << 16) };
                let mut shape = Vec::new();
                map.next_value_seed(Nested { level: 0, shape: &mut shape, data: &mut numbers.data })?;
                numbers.shape = shape.iter().map(|dim| dim.unwrap_or(0)).collect();
                found = Some(numbers);
            }
            found.ok_or_else(|| de::Error::missing_field("instances"))
        }
    }
    text.deserialize_map(Body).map_err(|error| error.to_string())
}

struct Nested<'a> {
    level: usize,
    shape: &'a mut Vec<Option<usize>>,
    data: &'a mut Vec<u8>,
}

impl Nested<'_> {
    fn put<E: de::Error>(self, value: f32) -> Result<(), E> {
        if self.level < self.shape.len() {
            return Err(E::custom("ragged"));
        }
        if !value.is_finite() {
            return Err(E::custom("beyond the range of FP32"));
        }
        self.data.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers in lists")
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.put(value as f32)
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.put(value as f32)
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.put(value as f32)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Nested { level, shape, data } = self;
        if level == 32 || (level == shape.len() && !data.is_empty()) {
            return Err(de::Error::custom("nested too deep, or ragged"));
        }
        if level == shape.len() {
            shape.push(None);
        }
        let mut count = 0;
        while list.next_element_seed(Nested { level: level + 1, shape, data })?.is_some() {
            count += 1;
        }
        match shape[level].replace(count) {
            Some(expected) if expected != count => Err(de::Error::custom("ragged")),
            _ => Ok(()),
        }
    }
}

#[derive(PartialEq)]
enum Member {
    Instances,
    Age,
    Other,
}

struct Name(Member);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Name, D::Error> {
        struct Names;
        impl Visitor<'_> for Names {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(match name {
                    "instances" => Member::Instances,
                    "age" => Member::Age,
                    _ => Member::Other,
                }))
            }
        }
        text.deserialize_str(Names)
    }
}

pub fn records<'de, D: Deserializer<'de>>(text: D) -> Result<Records, String> {
    struct Body;
    impl<'de> Visitor<'de> for Body {
        type Value = Records;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with `instances`")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Records, A::Error> {
            let mut found = Records::default();
            while map.next_key::<Name>()?.is_some() {
                map.next_value_seed(Rows(&mut found))?;
            }
            Ok(found)
        }
    }
    text.deserialize_map(Body).map_err(|error| error.to_string())
}

struct Rows<'a>(&'a mut Records);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Row(self.0))?.is_some() {}
        Ok(())
    }
}

struct Row<'a>(&'a mut Records);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name.0 {
                Member::Age => self.0.ages.push(map.next_value()?),
                _ => map.next_value_seed(Text(&mut self.0.texts))?,
            }
        }
        Ok(())
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        put_bytes_element(self.0, text.as_bytes());
        Ok(())
    }
}

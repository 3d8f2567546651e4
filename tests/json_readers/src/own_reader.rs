//! nobat's own.

use nobat_core::json::{Reader, decode};
use nobat_core::tensor::{Datatype, put_bytes_element};
use nobat_core::{Error, ErrorCode};

use crate::{Numbers, Records};

pub fn numbers(text: &[u8]) -> Result<Numbers, String> {
    let mut found = None;
    let mut reader = Reader::new(text);
    let read = reader.object("the body", |reader, name| {
        if name != "instances" || found.is_some() {
            return Err(Error::new(ErrorCode::InvalidJson, "the body takes `instances`, once"));
        }
        let mut data = Vec::with_capacity(reader.rest().len() / 2);
        let shape = decode::read(reader, Datatype::Fp32, &mut data, "instances")?;
        found = Some(Numbers { shape: shape.iter().map(|&dim| dim as usize).collect(), data });
        Ok(())
    });
    read.and_then(|()| reader.end()).map_err(|error| error.message)?;
    found.ok_or_else(|| "no instances".into())
}

pub fn records(text: &[u8]) -> Result<Records, String> {
    let mut found = Records::default();
    let mut reader = Reader::new(text);
    let read = reader.object("the body", |reader, _| {
        reader.list("instances", |reader, row| {
            reader.object("instances", |reader, name| {
                if name == "age" {
                    decode::read(reader, Datatype::Uint8, &mut found.ages, &format!("instances[{row}].age"))?;
                } else {
                    let text = reader.string("instances")?;
                    put_bytes_element(&mut found.texts, text.as_bytes());
                }
                Ok(())
            })
        })
    });
    read.and_then(|()| reader.end()).map_err(|error| error.message)?;
    Ok(found)
}

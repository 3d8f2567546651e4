//! One line per event, as text or as JSON, with the record's fields.
//!
//! log4rs's own encoders print fields by name only (pattern) or nested under
//! `attributes` with process details nobody reads (JSON); here every field
//! follows the message, and newlines are escaped so that one event stays one line.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use log::kv::{self, VisitSource};
use log::{Level, Record};
use log4rs::config::{Deserialize as Component, Deserializers};
use log4rs::encode::{Color, Encode, Style, Write};
use serde::Deserialize;

use super::settings::LogFormat;

#[derive(Debug)]
struct LineEncoder(LogFormat);

impl Encode for LineEncoder {
    fn encode(&self, out: &mut dyn Write, record: &Record<'_>) -> anyhow::Result<()> {
        let now = Utc::now();
        match self.0 {
            LogFormat::Text => {
                write!(out, "{} ", now.to_rfc3339_opts(SecondsFormat::Millis, true))?;
                out.set_style(Style::new().text(colour(record.level())))?;
                write!(out, "{:5}", record.level())?;
                out.set_style(&Style::new())?;
                out.write_all(text(record).as_bytes())?;
            }
            LogFormat::Json => out.write_all(json(now, record).as_bytes())?,
        }
        Ok(())
    }
}

fn colour(level: Level) -> Color {
    match level {
        Level::Error => Color::Red,
        Level::Warn => Color::Yellow,
        Level::Info => Color::Green,
        Level::Debug | Level::Trace => Color::Cyan,
    }
}

/// Everything after the level: ` target message key=value …\n`.
fn text(record: &Record<'_>) -> String {
    let mut line = String::with_capacity(160);
    // Writing to a String cannot fail.
    let _ = write!(line, " {} ", record.target());
    let start = line.len();
    let _ = write!(line, "{}", record.args());
    if line[start..].contains(['\n', '\r']) {
        let escaped = line[start..].replace('\n', "\\n").replace('\r', "\\r");
        line.replace_range(start.., &escaped);
    }
    let _ = record.key_values().visit(&mut TextFields(&mut line));
    line.push('\n');
    line
}

struct TextFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextFields<'_> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let _ = write!(self.0, " {key}=");
        let start = self.0.len();
        let _ = write!(self.0, "{value}");
        let written = &self.0[start..];
        if written.is_empty() || written.contains([' ', '"', '\n', '\r', '=']) {
            let quoted = format!("{written:?}");
            self.0.replace_range(start.., &quoted);
        }
        Ok(())
    }
}

fn json(now: DateTime<Utc>, record: &Record<'_>) -> String {
    let mut line = String::with_capacity(200);
    let _ = write!(
        line,
        "{{\"time\":\"{}\",\"level\":\"{}\",\"target\":{},\"message\":{}",
        now.to_rfc3339_opts(SecondsFormat::Micros, true),
        record.level(),
        serde_json::Value::from(record.target()),
        serde_json::Value::from(record.args().to_string()),
    );
    let _ = record.key_values().visit(&mut JsonFields(&mut line));
    line.push_str("}\n");
    line
}

struct JsonFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for JsonFields<'_> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let value = if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            // NaN and the infinities have no JSON; they become null.
            serde_json::Value::from(number)
        } else if let Some(flag) = value.to_bool() {
            flag.into()
        } else {
            serde_json::Value::from(value.to_string())
        };
        let _ = write!(self.0, ",{}:{value}", serde_json::Value::from(key.as_str()));
        Ok(())
    }
}

/// Makes `kind: line` encoders in the format of the settings.
pub(super) struct LineEncoderDeserializer(pub(super) LogFormat);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineEncoderConfig {
    /// Over the settings' format, for one appender.
    format: Option<LogFormat>,
}

impl Component for LineEncoderDeserializer {
    type Trait = dyn Encode;
    type Config = LineEncoderConfig;

    fn deserialize(&self, config: LineEncoderConfig, _: &Deserializers) -> anyhow::Result<Box<dyn Encode>> {
        Ok(Box::new(LineEncoder(config.format.unwrap_or(self.0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(use_it: impl FnOnce(&Record<'_>)) {
        let fields: &[(&str, kv::Value<'_>)] =
            &[("job", "abc".into()), ("ms", 12.into()), ("error", "no such\nfile".into()), ("share", 0.5.into())];
        let record = Record::builder()
            .args(format_args!("settled\na batch"))
            .level(Level::Info)
            .target("nobat_worker")
            .key_values(&fields)
            .build();
        use_it(&record);
    }

    #[test]
    fn text_keeps_one_event_on_one_line_with_its_fields() {
        record(|record| {
            assert_eq!(
                text(record),
                " nobat_worker settled\\na batch job=abc ms=12 error=\"no such\\nfile\" share=0.5\n"
            );
        });
    }

    #[test]
    fn json_is_one_object_with_typed_fields() {
        record(|record| {
            let line = json(Utc::now(), record);
            assert_eq!(line.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(value["message"], "settled\na batch");
            assert_eq!(value["ms"], 12);
            assert_eq!(value["share"], 0.5);
            assert_eq!(value["error"], "no such\nfile");
            assert_eq!(value["level"], "INFO");
        });
    }
}

//! Settings that are not for eyes: secrets, and URLs that may carry them.
//!
//! Neither has `Display`, and both show nothing through `Debug` and when they are
//! serialized, so that a new place that prints settings shows nothing either; who
//! needs the value says [`expose`](Secret::expose).

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What is shown in a secret's place.
const HIDDEN: &str = "***";

/// A password, a key: shown as `***`, or as nothing when it is empty.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A URL, of which what may be secret is not shown; see [`shown_url`].
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { HIDDEN }
    }
}

impl SecretUrl {
    /// The URL itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may be shown of it.
    pub fn shown(&self) -> String {
        shown_url(&self.0)
    }
}

macro_rules! hidden {
    ($name:ident) => {
        impl From<String> for $name {
            fn from(value: String) -> $name {
                $name(value)
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> $name {
                $name(value.to_owned())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.shown(), f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.shown())
            }
        }
    };
}

hidden!(Secret);
hidden!(SecretUrl);

/// What may be shown of a URL: no password, no query, and of `http` and `https` no
/// path either, since those who hand out addresses for webhooks put the secret there.
/// What is no URL is shown as it is.
pub fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        // Somebody forgot the scheme of a URL with a login.
        return match url.rsplit_once('@') {
            Some((login, host)) if login.contains(':') && !login.contains(char::is_whitespace) => {
                format!("{}:{HIDDEN}@{host}", login.split(':').next().unwrap_or_default())
            }
            _ => url.to_owned(),
        };
    };
    // A password may hold anything that nobody escaped: the last `@` ends the login.
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    let is_web = matches!(scheme, "http" | "https");
    let login = match login.map(|login| login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word))))
    {
        None => String::new(),
        Some((user, _)) if user.contains(['/', '?', '#']) => format!("{HIDDEN}@"),
        Some((user, Some(_))) => format!("{user}:{HIDDEN}@"),
        // A name alone is a token where there is no password to go with it.
        Some(_) if is_web => format!("{HIDDEN}@"),
        Some((user, None)) => format!("{user}@"),
    };
    match rest.split_once('/') {
        Some((host, path)) if is_web && !(path.is_empty() && query.is_empty()) => {
            format!("{scheme}://{login}{host}/{HIDDEN}")
        }
        _ => format!("{scheme}://{login}{rest}{query}"),
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_shows_settings_shows_a_secret() {
        #[derive(Debug, Serialize, Deserialize, PartialEq)]
        struct Settings {
            key: Secret,
            url: SecretUrl,
        }
        let settings: Settings =
            serde_json::from_str(r#"{"key": "whsec_abc", "url": "https://me:pw@host/T00/B00?token=x"}"#)
                .expect("reads");
        assert_eq!((settings.key.expose(), settings.url.expose()), ("whsec_abc", "https://me:pw@host/T00/B00?token=x"));
        let shown = format!("{settings:?} {}", serde_json::to_string(&settings).expect("JSON"));
        for secret in ["whsec", "abc", "pw", "T00", "token"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("https://me:***@host/***"), "{shown}");
        let none = Settings { key: Secret::default(), url: SecretUrl::default() };
        let same: Settings = serde_json::from_value(serde_json::to_value(&none).expect("JSON")).expect("reads");
        assert_eq!(same, none, "what is not set stays so");
    }

    #[test]
    fn of_a_url_the_secret_parts_are_not_shown() {
        for (url, shown) in [
            ("redis://me:secret@db:6379/0", "redis://me:***@db:6379/0"),
            ("redis://:se@cret@db", "redis://:***@db"),
            ("redis://me:a/b?c@db", "redis://me:***@db"),
            ("https://host/x:y@z", "https://***@z"),
            ("rediss+cluster://:pw@a,b,c", "rediss+cluster://:***@a,b,c"),
            ("redis+sentinel://:pw@a,b/service/1", "redis+sentinel://:***@a,b/service/1"),
            ("redis+unix:///run/redis.sock?pass=pw", "redis+unix:///run/redis.sock?***"),
            ("redis://db", "redis://db"),
            ("redis://me@db", "redis://me@db"),
            ("https://token@host", "https://***@host"),
            ("https://hooks.example/", "https://hooks.example/"),
            ("https://hooks.example/services/T0/B0/x", "https://hooks.example/***"),
            ("https://hooks.example?key=1", "https://hooks.example?***"),
            ("me:secret@db:6379", "me:***@db:6379"),
            ("/var/lib/nobat", "/var/lib/nobat"),
            ("", ""),
        ] {
            assert_eq!(shown_url(url), shown, "{url}");
        }
    }
}

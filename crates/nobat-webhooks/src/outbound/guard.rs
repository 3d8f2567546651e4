//! Which URLs nobat may call: the guard against server-side request forgery.
//!
//! Pure but for the resolver at its end. A URL is checked when it is given (so
//! that its author hears of a mistake) and its addresses each time a connection
//! is made (so that a name that changes its mind is caught).
//!
//! Source: the IANA special-purpose address registries; only globally reachable
//! unicast addresses pass. Forms that carry an IPv4 address inside an IPv6 one
//! (mapped, compatible, NAT64, 6to4, Teredo) never pass: they are how filters
//! are walked around, and no public receiver needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nobat_core::{Error, Result};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::{Deserialize, Serialize};

/// What an operator allows beyond public https.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressPolicy {
    /// Plain http as well as https.
    pub allow_http: bool,
    /// Private, loopback and other addresses that are not publicly reachable.
    pub allow_private: bool,
}

impl AddressPolicy {
    /// Checks a URL as far as it can be without resolving its host.
    ///
    /// # Errors
    /// `invalid_parameter`, naming what is wrong and the remedy.
    pub fn check(self, url: &str) -> Result<WebhookUrl> {
        let refuse = |why: String| Error::invalid(why);
        let url = Url::parse(url).map_err(|e| refuse(format!("url is malformed ({e}); give https://host/path")))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            other => return Err(refuse(format!("url has scheme `{other}`; give https"))),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("url carries a user name or password; take it out, requests are signed instead".into()));
        }
        let host = url.host_str().ok_or_else(|| refuse("url has no host".into()))?;
        // The URL parser has already turned odd spellings (0x7f.1, 2130706433)
        // into addresses; what is left as text is a name.
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            self.check_ip(host, ip)?;
        }
        Ok(WebhookUrl { url })
    }

    /// Checks one address of a host.
    ///
    /// # Errors
    /// `invalid_parameter`, naming host and address.
    pub fn check_ip(self, host: &str, ip: IpAddr) -> Result<()> {
        if self.allow_private || is_public(ip) {
            return Ok(());
        }
        let note = if host.trim_matches(['[', ']']) == ip.to_string() { String::new() } else { format!(" ({ip})") };
        Err(Error::invalid(format!(
            "address of `{host}`{note} is private or reserved; use a public one, or allow private addresses"
        )))
    }
}

/// A URL that passed [`AddressPolicy::check`]. Shows scheme and host only.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    pub(super) url: Url,
}

impl WebhookUrl {
    /// Scheme, host and port: what fails together.
    pub fn endpoint(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl std::fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }
}

impl std::fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookUrl({self})")
    }
}

/// What may be shown of a URL: scheme, host and port.
pub fn endpoint_of(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "unreadable".to_owned(), |url| WebhookUrl { url }.endpoint())
}

/// Whether `ip` is a globally reachable unicast address.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let reserved = match a {
        0 | 10 | 127 => true,
        100 => (64..128).contains(&b), // shared address space
        169 => b == 254,               // link-local, cloud metadata
        172 => (16..32).contains(&b),  // private
        192 => b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99),
        198 => b == 18 || b == 19 || (b == 51 && c == 100), // benchmarking, documentation
        203 => b == 0 && c == 113,                          // documentation
        224.. => true,                                      // multicast, reserved, broadcast
        _ => false,
    };
    !reserved
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let global_unicast = a & 0xe000 == 0x2000;
    let carries_v4_or_reserved = match a {
        0x2001 => b < 0x0200 || b == 0x0db8, // protocol assignments with Teredo; documentation
        0x2002 => true,                      // 6to4
        0x3fff => b < 0x1000,                // documentation
        _ => false,
    };
    global_unicast && !carries_v4_or_reserved
}

/// Resolves names for the client and lets only checked addresses through: the
/// client connects to what this returns and to nothing else.
pub(super) struct GuardedResolver {
    pub(super) policy: AddressPolicy,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.policy;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // One bad address condemns the name: a mixed answer is how a
            // rebinding attack looks.
            for address in &found {
                policy.check_ip(&host, address.ip()).map_err(|error| Arc::new(Forbidden(error.message)))?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A resolved address was refused; found again at the end of a client error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Forbidden(pub(super) String);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn public_https_passes_and_everything_else_is_told() {
        let strict = AddressPolicy::default();
        for good in ["https://example.com/hook?x=1", "https://93.184.215.14:8443/", "https://[2606:2800:21f:cb07::1]/"]
        {
            assert!(strict.check(good).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("http://example.com/", "scheme `http`"),
            ("ftp://example.com/", "scheme `ftp`"),
            ("file:///etc/passwd", "scheme `file`"),
            ("example.com", "malformed"),
            ("https://user:pw@example.com/", "user name or password"),
            ("https://127.0.0.1/", "private or reserved"),
            ("https://2130706433/", "private or reserved"),
            ("https://0x7f.1/", "private or reserved"),
            ("https://0177.0.0.1/", "private or reserved"),
            ("https://169.254.169.254/latest", "private or reserved"),
            ("https://[::1]/", "private or reserved"),
            ("https://[::ffff:10.0.0.1]/", "private or reserved"),
            ("https://[::ffff:8.8.8.8]/", "private or reserved"),
            ("https://[64:ff9b::7f00:1]/", "private or reserved"),
            ("https://[2002:7f00:1::]/", "private or reserved"),
            ("https://[fd00::1]/", "private or reserved"),
            ("https://[fe80::1]/", "private or reserved"),
        ] {
            let error = strict.check(bad).expect_err(bad);
            assert!(error.message.contains(says), "{bad}: {}", error.message);
            assert!(!error.message.contains("pw"), "{}", error.message);
        }
    }

    #[test]
    fn an_operator_can_allow_http_and_private_addresses() {
        let loose = AddressPolicy { allow_http: true, allow_private: true };
        assert!(loose.check("http://127.0.0.1:9/hook").is_ok());
        assert!(AddressPolicy { allow_http: true, allow_private: false }.check("http://127.0.0.1/").is_err());
    }

    #[test]
    fn a_target_shows_neither_path_nor_query() {
        let target = AddressPolicy::default().check("https://hooks.example.com/T0/secret?token=abc").expect("public");
        assert_eq!(target.to_string(), "https://hooks.example.com");
        assert!(!format!("{target:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn no_v6_form_of_a_v4_address_is_public(v4: u32) {
            let mapped = Ipv4Addr::from(v4).to_ipv6_mapped();
            let [a, b, c, d, e, f, g, h] = mapped.segments();
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, g, h);
            let six_to_four = Ipv6Addr::new(0x2002, g, h, 0, 0, 0, 0, 1);
            prop_assert_eq!([a, b, c, d, e, f], [0, 0, 0, 0, 0, 0xffff]);
            for form in [mapped, nat64, six_to_four, Ipv4Addr::from(v4).to_ipv6_compatible()] {
                prop_assert!(!is_public(form.into()));
            }
        }

        #[test]
        fn private_and_local_v4_are_never_public(a: u8, b: u8, c: u8, d: u8) {
            let ip = Ipv4Addr::new(a, b, c, d);
            let special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_broadcast()
                || ip.is_documentation() || ip.is_unspecified() || ip.is_multicast();
            prop_assert!(!(special && is_public(ip.into())));
        }
    }
}

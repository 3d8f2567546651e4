//! Which web pages may use the gateway: the `Host` that a request names, the
//! `Origin` that it comes from, and what CORS tells browsers. Pure.
//!
//! A browser sends requests of any page to any address, a loopback one too. Two
//! headers that a page cannot choose tell:
//! - `Host`: a page whose own name was pointed at this address (DNS rebinding) sends
//!   that name. An address as a literal cannot be pointed anywhere, and a name without a
//!   dot is no public server's to point.
//! - `Origin` and `Sec-Fetch-Site`: a request that changes something from a page of
//!   another origin is refused unless that origin is allowed. CORS alone does not do
//!   that: it keeps a page from reading the answer, not from sending.
//!
//! Clients other than browsers send neither and are not concerned.

use std::net::IpAddr;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use nobat_core::{Error, ErrorCode, Result, clip};
use serde::{Deserialize, Serialize};

/// Which pages of other origins may use the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins as browsers write them, `https://app.example.com`, or `*` for all;
    /// none: only the gateway's own pages.
    pub origins: Vec<String>,
    /// How long a browser may remember what it was allowed, in seconds.
    pub max_age_s: u32,
}

impl Default for CorsConfig {
    fn default() -> CorsConfig {
        CorsConfig { origins: Vec::new(), max_age_s: 600 }
    }
}

impl CorsConfig {
    /// Checks each origin.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the value and its form.
    pub fn validate(&self) -> Result<()> {
        let wrong = self.origins.iter().find(|origin| *origin != "*" && !is_origin(origin));
        match wrong {
            None => Ok(()),
            Some(origin) => Err(Error::new(
                ErrorCode::InvalidParameter,
                format!(
                    "cors.origins has `{origin}`, which is no origin; give scheme, host and port without a path, such as \
                     `https://app.example.com`, or `*`"
                ),
            )),
        }
    }
}

fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', '*']))
}

/// Decides by the headers of a request.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    cors: CorsConfig,
    /// Names that `Host` may have besides addresses and local ones; `None`: any.
    names: Option<Vec<String>>,
}

/// What a request says of where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestOrigin<'a> {
    /// It may change something.
    pub is_write: bool,
    /// The authority that it names.
    pub host: Option<&'a str>,
    /// The origin of the page that sent it.
    pub origin: Option<&'a str>,
    /// How the browser says that page and address are related.
    pub fetch_site: Option<&'a str>,
}

impl<'a> RequestOrigin<'a> {
    /// Reads the headers; `authority` is the address line's, which HTTP/2 has in
    /// place of `Host`. A header that is not text is there, and matches nothing.
    pub fn of(method: &Method, headers: &'a HeaderMap, authority: Option<&'a str>) -> RequestOrigin<'a> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        RequestOrigin {
            is_write: !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS),
            host: text(header::HOST).or(authority),
            origin: text(header::ORIGIN),
            fetch_site: text(header::HeaderName::from_static("sec-fetch-site")),
        }
    }
}

impl RequestOrigin<'_> {
    /// Whether a page of this very server sent it, as far as a browser says so.
    pub fn is_of_own_page(&self) -> bool {
        match (self.fetch_site, self.origin) {
            (Some(site), _) => site == "same-origin",
            (None, Some(origin)) => is_same(origin, self.host),
            (None, None) => false,
        }
    }
}

impl Origins {
    /// With these settings. `is_local`: the listener is a loopback one and asks for
    /// no keys, so what protects it is that only this host reaches it.
    pub fn new(cors: CorsConfig, hosts: &[String], listen: &str, is_local: bool) -> Origins {
        let names = (is_local || !hosts.is_empty()).then(|| {
            let own = host_of(listen).unwrap_or_default();
            hosts.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).chain([own]).collect()
        });
        Origins { cors, names }
    }

    /// Refuses what a page may not send.
    ///
    /// # Errors
    /// `permission_denied`, naming the header, its value and the setting.
    pub fn check(&self, asked: RequestOrigin<'_>) -> Result<()> {
        if let (Some(names), Some(host)) = (&self.names, asked.host)
            && !is_own(host, names)
        {
            return Err(refuse(format!(
                "this server does not answer for the Host `{}`; ask for it by its address or `localhost`, or name the \
                 host in `gateway.hosts`",
                clip(host)
            )));
        }
        if !asked.is_write || asked.fetch_site == Some("same-origin") {
            return Ok(());
        }
        let foreign = match (asked.origin, asked.fetch_site) {
            (Some(origin), _) if self.allows(origin) || is_same(origin, asked.host) => return Ok(()),
            (Some(origin), _) => format!("a page of `{}`", clip(origin)),
            (None, Some("cross-site" | "same-site")) => "a page of another origin".to_owned(),
            (None, _) => return Ok(()),
        };
        Err(refuse(format!(
            "{foreign} may not change anything here; list its origin in `gateway.cors.origins` to allow it"
        )))
    }

    /// Whether pages of this origin may use the gateway.
    fn allows(&self, origin: &str) -> bool {
        self.cors.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }

    /// Adds to an answer what tells a browser that its page may read it. A preflight
    /// is answered by its resource with what that allows; browsers want it in headers
    /// of their own.
    pub fn tell(&self, request: &Preflight, status: StatusCode, answer: &mut HeaderMap) {
        if self.cors.origins.is_empty() {
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = request.origin.as_ref().filter(|origin| origin.to_str().is_ok_and(|text| self.allows(text)))
        else {
            return;
        };
        let any = self.cors.origins.iter().any(|origin| origin == "*");
        let told = if any { HeaderValue::from_static("*") } else { origin.clone() };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, told);
        if !request.is_preflight {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
        if !status.is_success() {
            return;
        }
        if let Some(allow) = answer.get(header::ALLOW).cloned() {
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allow);
        }
        if let Some(headers) = request.headers.as_ref().filter(|headers| is_list_of_names(headers.as_bytes())) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        if request.asks_for_private {
            answer.insert(
                HeaderName::from_static("access-control-allow-private-network"),
                HeaderValue::from_static("true"),
            );
        }
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.cors.max_age_s));
    }
}

/// Headers of answers that a page may read besides those that it always may.
const EXPOSED: &str = "location, retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, \
                       x-ratelimit-reset, server-timing, x-request-id, cache-status, preference-applied, allow, \
                       inference-header-content-length";

/// What a request with an `Origin` asks of CORS; kept until its answer is there.
#[derive(Clone, Debug, Default)]
pub struct Preflight {
    origin: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    is_preflight: bool,
    asks_for_private: bool,
}

impl Preflight {
    /// Reads a request's headers.
    pub fn of(method: &Method, headers: &HeaderMap) -> Preflight {
        let Some(origin) = headers.get(header::ORIGIN) else { return Preflight::default() };
        let is_preflight = method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Preflight {
            origin: Some(origin.clone()),
            headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|_| is_preflight).cloned(),
            is_preflight,
            asks_for_private: is_preflight && headers.contains_key("access-control-request-private-network"),
        }
    }
}

/// Names of headers with commas between them, and no more than a request has.
fn is_list_of_names(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b',' | b' ');
    text.len() <= 2048 && text.iter().all(plain)
}

/// Whether a `Host` is an address, a name that no public server could have given (one
/// without a dot, `localhost` or a machine's, or one under `localhost`), or one of these.
fn is_own(host: &str, names: &[String]) -> bool {
    let Some(name) = host_of(host) else { return false };
    let is_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.parse::<IpAddr>().is_ok()
        || name.bytes().all(is_label)
        || name.ends_with(".localhost")
        || names.contains(&name)
}

/// The host of `host[:port]` in lower case, brackets and a final dot left out.
fn host_of(text: &str) -> Option<String> {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            let port = port.strip_prefix(':').unwrap_or(port);
            is_port(port).then_some(host)?
        }
        None => match text.split_once(':') {
            Some((host, port)) => is_port(port).then_some(host)?,
            None => text,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Whether an origin is this very server as it was asked. The scheme is left out of
/// it: a proxy may have ended the TLS that the page was loaded with.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

fn refuse(message: String) -> Error {
    Error::new(ErrorCode::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origins(allowed: &[&str], hosts: &[&str], is_local: bool) -> Origins {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let cors = CorsConfig { origins: own(allowed), ..CorsConfig::default() };
        cors.validate().expect("origins");
        Origins::new(cors, &own(hosts), "127.0.0.1:8000", is_local)
    }

    fn write<'a>(host: &'a str, origin: Option<&'a str>, fetch_site: Option<&'a str>) -> RequestOrigin<'a> {
        RequestOrigin { is_write: true, host: Some(host), origin, fetch_site }
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing_unless_it_is_allowed() {
        let none = origins(&[], &[], true);
        let own = "127.0.0.1:8000";
        for (origin, site, allowed) in [
            (None, None, true),
            (None, Some("none"), true),
            (None, Some("same-origin"), true),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
            (Some("http://127.0.0.1:8000"), None, true),
            (Some("https://127.0.0.1:8000"), None, true),
            (Some("http://127.0.0.1:3000"), Some("same-site"), false),
            (Some("http://127.0.0.1"), None, false),
            (Some("https://evil.example"), Some("cross-site"), false),
            (Some("https://evil.example"), None, false),
            (Some("null"), None, false),
            (Some(""), None, false),
            // A proxy gave another Host on; the browser knows better.
            (Some("https://app.example.com"), Some("same-origin"), true),
        ] {
            assert_eq!(none.check(write(own, origin, site)).is_ok(), allowed, "{origin:?} {site:?}");
            let read = RequestOrigin { is_write: false, ..write(own, origin, site) };
            assert!(none.check(read).is_ok(), "reading is the browser's to refuse");
        }
        let app = origins(&["https://app.example.com"], &[], true);
        assert!(app.check(write(own, Some("https://app.example.com"), Some("cross-site"))).is_ok());
        for other in ["https://app.example.com.evil.example", "http://app.example.com", "https://app.example.com:444"] {
            let error = app.check(write(own, Some(other), None)).expect_err(other);
            assert!(error.message.contains(other) && error.message.contains("gateway.cors.origins"), "{error}");
        }
        assert!(origins(&["*"], &[], true).check(write(own, Some("https://any.example"), None)).is_ok());
    }

    #[test]
    fn a_local_server_answers_for_local_names_only() {
        let local = origins(&[], &["proxy.example.com"], true);
        for (host, own) in [
            ("127.0.0.1:8000", true),
            ("127.9.9.9", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("localhost", true),
            ("LOCALHOST:8000", true),
            ("localhost.:8000", true),
            ("app.localhost", true),
            ("192.168.0.7:8000", true),
            ("proxy.example.com", true),
            ("Proxy.Example.com.:443", true),
            ("evil.example", false),
            ("evil.example:8000", false),
            ("localhost.evil.example", false),
            ("nobat:8000", true),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("127.0.0.1:8000.evil.example", false),
            ("[::1].evil.example", false),
            ("", false),
            (":8000", false),
            ("?", false),
        ] {
            let asked = RequestOrigin { host: Some(host), ..RequestOrigin::default() };
            assert_eq!(local.check(asked).is_ok(), own, "{host}");
        }
        assert!(local.check(RequestOrigin::default()).is_ok(), "HTTP/1.0 names none, and no browser speaks it");
        assert!(
            origins(&[], &[], false)
                .check(RequestOrigin { host: Some("any.example"), ..RequestOrigin::default() })
                .is_ok()
        );
        let named = origins(&[], &["api.example.com"], false);
        assert!(named.check(RequestOrigin { host: Some("any.example"), ..RequestOrigin::default() }).is_err());
    }

    #[test]
    fn what_is_no_origin_is_told_at_start() {
        for wrong in ["app.example.com", "https://app.example.com/", "https://*.example.com", "https://", "null", ""] {
            let error = CorsConfig { origins: vec![wrong.into()], ..CorsConfig::default() }.validate();
            let message = error.expect_err(wrong).message;
            assert!(message.contains(&format!("`{wrong}`")), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_foreign_name_passes_for_a_local_one(name in "[a-z0-9.:@\\[\\]%-]{1,24}") {
            let local = origins(&[], &[], true);
            let host = format!("{name}.evil.example");
            let asked = RequestOrigin { host: Some(&host), ..RequestOrigin::default() };
            prop_assert!(local.check(asked).is_err());
        }

        #[test]
        fn only_the_same_authority_is_the_same_origin(host in "[a-z.]{1,12}(:[0-9]{1,5})?", other in "[a-z.]{1,12}(:[0-9]{1,5})?") {
            let open = origins(&[], &[], false);
            let origin = format!("http://{other}");
            prop_assert_eq!(open.check(write(&host, Some(&origin), None)).is_ok(), host == other);
        }
    }
}

//! The cookie in which a browser keeps its session, and what a request with it must show.
//!
//! A browser sends a cookie with whatever page asks for, so a cookie alone changes nothing:
//! a request that writes must come from a page of this very origin, whatever CORS allows to
//! others, and carry a header that a form cannot set. Requests with an `Authorization`
//! header are not concerned: no browser adds that by itself.

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::auth::Credential;

use crate::middleware;
use crate::origin::RequestOrigin;

/// The cookie's name.
const NAME: &str = "nobat-session";
/// Header of a page's own requests; its value does not matter.
pub(crate) const OWN_PAGE: &str = "nobat-console";
/// Longest path that a session may be bound to.
const LONGEST_PATH: usize = 256;

/// What a request says of who it is from.
///
/// # Errors
/// `permission_denied` for a write by a session that no page of this origin sent.
pub(crate) fn credential<'a>(
    method: &Method,
    headers: &'a HeaderMap,
    authority: Option<&'a str>,
) -> Result<Credential<'a>> {
    if let Some(authorization) = middleware::text(headers, header::AUTHORIZATION) {
        return Ok(Credential::Authorization(authorization));
    }
    let Some(session) = session(headers) else { return Ok(Credential::None) };
    let asked = RequestOrigin::of(method, headers, authority);
    if asked.is_write && !(asked.is_of_own_page() && headers.contains_key(OWN_PAGE)) {
        let message = format!(
            "a session changes things only from this server's own pages, which send the header `{OWN_PAGE}`; send the \
             API key as `Authorization: Bearer …` instead"
        );
        return Err(Error::new(ErrorCode::PermissionDenied, message));
    }
    Ok(Credential::Session(session))
}

/// The session that a request came with.
pub(crate) fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == NAME).map(|(_, value)| value)
}

/// `Set-Cookie` of a session under `path`; an empty one takes it back. `is_secure`: only
/// over TLS.
pub(crate) fn set(session: &str, path: &str, max_age_s: u64, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{NAME}={session}; Path={path}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether a session may be bound to this path: what no attribute of a cookie can hide in.
pub(crate) fn is_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    path.starts_with('/') && path.len() <= LONGEST_PATH && path.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn judged(method: &Method, given: &[(&'static str, &str)]) -> &'static str {
        match credential(method, &headers(given), None) {
            Ok(Credential::None) => "none",
            Ok(Credential::Authorization(_)) => "key",
            Ok(Credential::Session(_)) => "session",
            Err(_) => "refused",
        }
    }

    #[test]
    fn a_session_writes_from_an_own_page_only() {
        const COOKIE: (&str, &str) = ("cookie", "a=1; nobat-session=s; b=2");
        const PAGE: (&str, &str) = (OWN_PAGE, "1");
        const HOST: (&str, &str) = ("host", "nobat.example:8000");
        for (given, read, write) in [
            (vec![HOST], "none", "none"),
            (vec![HOST, COOKIE], "session", "refused"),
            (vec![HOST, COOKIE, PAGE], "session", "refused"),
            (vec![HOST, COOKIE, PAGE, ("sec-fetch-site", "same-origin")], "session", "session"),
            (vec![HOST, COOKIE, ("sec-fetch-site", "same-origin")], "session", "refused"),
            (vec![HOST, COOKIE, PAGE, ("sec-fetch-site", "same-site")], "session", "refused"),
            (vec![HOST, COOKIE, PAGE, ("sec-fetch-site", "none")], "session", "refused"),
            (vec![HOST, COOKIE, PAGE, ("origin", "http://nobat.example:8000")], "session", "session"),
            (vec![HOST, COOKIE, PAGE, ("origin", "https://evil.example")], "session", "refused"),
            (vec![HOST, COOKIE, PAGE, ("origin", "null")], "session", "refused"),
            (
                vec![HOST, COOKIE, PAGE, ("origin", "http://nobat.example:8000"), ("sec-fetch-site", "cross-site")],
                "session",
                "refused",
            ),
            (vec![HOST, COOKIE, ("authorization", "Bearer x")], "key", "key"),
            (vec![HOST, ("cookie", "xnobat-session=s; nobat-sessions=t")], "none", "none"),
        ] {
            assert_eq!((judged(&Method::GET, &given), judged(&Method::POST, &given)), (read, write), "{given:?}");
            assert_eq!(judged(&Method::DELETE, &given), write, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_breaks_out_of_its_attribute(path in "\\PC{0,40}") {
            if is_path(&path) {
                let cookie = set("s", &path, 1, true);
                prop_assert_eq!(cookie.split(';').count(), 6);
                prop_assert!(cookie.is_ascii() && !cookie.contains(['\r', '\n', ',']));
            }
        }
    }
}

//! Paths of the protocol, taken apart by hand: a model's name, version and verb share
//! one segment, and this is the hottest route.

use std::borrow::Cow;

use nobat_serving::registry::Want;
use smallvec::SmallVec;

use crate::path::segment;

/// What a path asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Call<'a> {
    pub(super) model: &'a str,
    pub(super) want: Want<'a>,
    pub(super) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Action {
    Predict,
    Classify,
    Regress,
    Status,
    Metadata,
}

/// A path taken apart before its segments are decoded: a slash in a name is none of
/// the path's.
pub(super) struct Decoded<'a>(SmallVec<[Cow<'a, str>; 4]>);

impl<'a> Decoded<'a> {
    pub(super) fn of(path: &'a str) -> Decoded<'a> {
        Decoded(path.split('/').map(segment).collect())
    }

    /// Reads `{m}[/versions/{v}|/labels/{l}][:verb|/metadata]`.
    pub(super) fn call(&self) -> Option<Call<'_>> {
        let (last, before) = self.0.split_last()?;
        let (last, mut action) = match last.rsplit_once(':') {
            Some((last, "predict")) => (last, Action::Predict),
            Some((last, "classify")) => (last, Action::Classify),
            Some((last, "regress")) => (last, Action::Regress),
            Some(_) | None => (&**last, Action::Status),
        };
        let mut segments = before.iter().map(|segment| &**segment).chain([last]);
        let model = segments.next().filter(|model| !model.is_empty())?;
        let mut want = Want::Default;
        let mut next = segments.next();
        if let Some(kind @ ("versions" | "labels")) = next {
            let name = segments.next().filter(|name| !name.is_empty())?;
            want = if kind == "versions" { Want::Version(name) } else { Want::Label(name) };
            next = segments.next();
        }
        if next == Some("metadata") && action == Action::Status {
            action = Action::Metadata;
            next = segments.next();
        }
        next.is_none().then_some(Call { model, want, action })
    }
}

impl Call<'_> {
    pub(super) fn allow(&self) -> &'static str {
        match self.action {
            Action::Predict | Action::Classify | Action::Regress => "POST",
            Action::Status | Action::Metadata => "GET, HEAD",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let call = |model, want, action| Some(Call { model, want, action });
        for (path, expected) in [
            ("m:predict", call("m", Want::Default, Action::Predict)),
            ("m/versions/3:classify", call("m", Want::Version("3"), Action::Classify)),
            ("m/labels/stable:regress", call("m", Want::Label("stable"), Action::Regress)),
            ("m", call("m", Want::Default, Action::Status)),
            ("m/versions/3", call("m", Want::Version("3"), Action::Status)),
            ("m/metadata", call("m", Want::Default, Action::Metadata)),
            ("m/labels/a/metadata", call("m", Want::Label("a"), Action::Metadata)),
            ("m:other", call("m:other", Want::Default, Action::Status)),
            ("", None),
            (":predict", None),
            ("m/", None),
            ("m/versions", None),
            ("m/versions/:predict", None),
            ("m/metadata:predict", None),
            ("m/versions/1/labels/2", None),
            ("../m:predict", None),
            ("a%2Fb:predict", call("a/b", Want::Default, Action::Predict)),
            ("a%252Fb%3Apredict", call("a%2Fb", Want::Default, Action::Predict)),
            ("m%2Fversions%2F3:predict", call("m/versions/3", Want::Default, Action::Predict)),
            ("na%C3%AFve+1/versions/%31", call("naïve+1", Want::Version("1"), Action::Status)),
        ] {
            assert_eq!(Decoded::of(path).call(), expected, "{path}");
        }
    }
}

//! Whether a canary or a copy may take over, and its taking over.

use nobat_core::{Error, Result};
use nobat_statistics::pairs::GateVerdict;
use nobat_statistics::rollout::Rollout;
pub use nobat_statistics::rollout::RolloutMargins;
use serde::Serialize;
use smol_str::SmolStr;

use super::evidence;
use super::route::{Route, Rule, Target};
use super::routes::no_route;
use crate::state::ServingState;

/// How a route's new version stands.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The target that is to take over.
    pub candidate: Target,
    /// The target that it is compared with.
    pub current: Target,
    /// The verdict, over all gateways.
    #[serde(flatten)]
    pub rollout: Rollout,
}

/// What was asked for beside the route.
#[derive(Clone, Debug, Default)]
pub struct PromotionRequest {
    /// The target that is to take over; `None`: the only one it can be.
    pub candidate: Option<SmolStr>,
    /// What still counts as safe.
    pub margins: RolloutMargins,
    /// Take an unsafe candidate out of the route.
    pub roll_back: bool,
}

/// What became of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionOutcome {
    /// It is safe, and the route names it alone.
    Promoted,
    /// It is unsafe, and the route is as it was.
    Refused,
    /// It is unsafe, and the route names the old target alone.
    RolledBack,
    /// Neither is shown yet, and the route is as it was.
    Undecided,
}

/// A promotion and why.
#[derive(Clone, Debug, Serialize)]
pub struct Promotion {
    /// What became of it.
    pub outcome: PromotionOutcome,
    /// Why.
    #[serde(flatten)]
    pub judged: Judged,
}

/// Judges a route's candidate by what all gateways have seen.
///
/// # Errors
/// `route_not_found`; `invalid_parameter` for a route that has no candidate, or several and
/// none is named.
pub fn judge(state: &ServingState, name: &str, candidate: Option<&str>, margins: &RolloutMargins) -> Result<Judged> {
    let routes = state.routes.load();
    let (Some(route), Some(bound)) = (routes.table().get(name), routes.get(name)) else { return Err(no_route(name)) };
    let (current, candidate) = sides(route, candidate)?;
    let seen = |target: &str| {
        let own = state.routes.evidence.of(&bound.scope, target);
        state.shared_counts.sum(&own, &bound.scope.key(target))
    };
    let rollout = match route.rule()? {
        Rule::Weighted(shares) => {
            let share =
                |target: &Target| shares.iter().find(|own| own.target == *target).map_or(0.0, |own| own.percent);
            let (old, new) = (share(&current), share(&candidate));
            evidence::canary(&seen(&current), &seen(&candidate)).judge(new / (old + new), margins)
        }
        _ => evidence::shadow(&seen(&candidate)).judge(margins),
    };
    Ok(Judged { candidate, current, rollout })
}

/// Judges every candidate of a route; none where it has none.
pub fn judge_all(state: &ServingState, route: &Route) -> Vec<Judged> {
    let Ok((_, candidates)) = candidates(route) else { return vec![] };
    let margins = RolloutMargins::default();
    candidates.into_iter().filter_map(|target| judge(state, &route.name, Some(target), &margins).ok()).collect()
}

/// Lets the candidate take over where it is safe, for every gateway and for good.
///
/// # Errors
/// As [`judge`], and as putting a route.
pub async fn promote(state: &ServingState, name: &str, request: &PromotionRequest) -> Result<Promotion> {
    request.margins.check().map_err(Error::invalid)?;
    // What another gateway was told is known first.
    state.routes.refresh(&state.registry).await?;
    let judged_route = state.routes.load().table().get(name).cloned();
    let judged = judge(state, name, request.candidate.as_deref(), &request.margins)?;
    let (outcome, target) = match judged.rollout.verdict {
        GateVerdict::Safe => (PromotionOutcome::Promoted, Some(&judged.candidate)),
        GateVerdict::Unsafe if request.roll_back => (PromotionOutcome::RolledBack, Some(&judged.current)),
        GateVerdict::Unsafe => (PromotionOutcome::Refused, None),
        GateVerdict::MoreNeeded(_) => (PromotionOutcome::Undecided, None),
    };
    if let Some(target) = target {
        // The verdict is on the route as it was judged.
        let judged_route = judged_route.ok_or_else(|| no_route(name))?;
        state.routes.replace(&state.registry, &judged_route, Route::to(name, target)).await?;
        let (candidate, words) = (judged.candidate.as_str(), judged.rollout.words.as_str());
        log::info!(route = name; "routes: `{name}` goes to `{target}` alone; `{candidate}` is {words}");
    }
    Ok(Promotion { outcome, judged })
}

/// The target that serves, and those that may take over.
fn candidates(route: &Route) -> Result<(&Target, Vec<&Target>)> {
    match route.rule()? {
        Rule::Weighted(shares) => {
            // The larger share serves; of two alike the first.
            let Some(current) = shares.iter().rev().max_by_key(|own| own.share()) else {
                return Err(route.invalid("has no targets"));
            };
            let others = shares.iter().filter(|own| own.target != current.target && own.share() > 0);
            Ok((&current.target, others.map(|own| &own.target).collect()))
        }
        Rule::Shadow(shadow) => Ok((&shadow.primary, shadow.copies.iter().collect())),
        _ => Err(route.invalid("has nobody to promote; a weighted route has, or a shadow")),
    }
}

/// The old target of a route and the new one.
fn sides(route: &Route, asked: Option<&str>) -> Result<(Target, Target)> {
    let (current, candidates) = candidates(route)?;
    let listed = candidates.iter().map(|target| format!("`{target}`")).collect::<Vec<_>>().join(", ");
    let candidate = match (asked, &candidates[..]) {
        (Some(asked), _) => candidates.iter().find(|target| **target == asked).copied().ok_or_else(|| {
            route.invalid(&format!("does not have `{asked}` beside `{current}`; name one of {listed}"))
        })?,
        (None, [only]) => only,
        (None, []) => return Err(route.invalid(&format!("sends everything to `{current}` already"))),
        (None, _) => return Err(route.invalid(&format!("has several that may take over; name one of {listed}"))),
    };
    Ok((current.clone(), candidate.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_share_or_the_copy_takes_over_and_a_choice_is_asked_for() {
        let sides = |json: serde_json::Value, asked: Option<&str>| {
            let route: Route = serde_json::from_value(json).expect("a route");
            super::sides(&route, asked).map(|(old, new)| format!("{old} -> {new}")).map_err(|error| error.message)
        };
        let shares = |list: &[(&str, f64)]| {
            let list: Vec<_> = list
                .iter()
                .map(|(target, percent)| serde_json::json!({"target": target, "percent": percent}))
                .collect();
            serde_json::json!({"name": "r", "weighted": list})
        };
        assert_eq!(sides(shares(&[("a", 10.0), ("b", 90.0)]), None).as_deref(), Ok("b -> a"));
        assert_eq!(sides(shares(&[("a", 50.0), ("b", 50.0)]), None).as_deref(), Ok("a -> b"));
        let three = shares(&[("a", 80.0), ("b", 10.0), ("c", 10.0)]);
        assert!(sides(three.clone(), None).expect_err("a choice").contains("name one of `b`, `c`"));
        assert_eq!(sides(three.clone(), Some("c")).as_deref(), Ok("a -> c"));
        assert!(sides(three, Some("a")).expect_err("it serves").contains("beside `a`"));
        assert!(sides(shares(&[("a", 100.0), ("b", 0.0)]), None).expect_err("all").contains("to `a` already"));
        let copy = serde_json::json!({"name": "r", "shadow": {"primary": "a", "copies": ["b"]}});
        assert_eq!(sides(copy, None).as_deref(), Ok("a -> b"));
        let direct = serde_json::json!({"name": "r", "direct": "a"});
        assert!(sides(direct, None).expect_err("nobody").contains("nobody to promote"));
    }
}

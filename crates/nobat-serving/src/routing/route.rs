//! What a route is, as configuration and the admin call write it.

use nobat_core::chain::{self, ChainDefinition};
use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::topic::Pattern;
use super::weight::WHOLE;

/// Names a model, a version of it (`digits/2`), or another route.
pub type Target = SmolStr;

/// One route: a name and exactly one rule.
///
/// ```toml
/// [[routes]]
/// name = "digits"
/// weighted = [{ target = "digits", percent = 95 }, { target = "digits-next", percent = 5 }]
/// ```
///
/// A route may carry a model's name: it then takes its place, and inside its own
/// targets that name means the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What callers write where a model name stands.
    pub name: SmolStr,
    /// Another name for a model, a version or a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Target>,
    /// Every model whose routing key matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
    /// Every target of a group, answers joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fanout: Option<FanOut>,
    /// One target by share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted: Option<Vec<Weighted>>,
    /// One target answers, copies are compared with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// A chain of models under the route's name, which workers that have one of them carry out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainDefinition>,
    /// What becomes of the share of a weighted target that nobody serves.
    #[serde(default, skip_serializing_if = "OnMissing::is_default")]
    pub on_missing: OnMissing,
}

/// What becomes of the share of a weighted target that no live worker serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// It goes to the other targets, by their own shares, until it is served again.
    #[default]
    Share,
    /// Its requests fail.
    Fail,
}

impl OnMissing {
    fn is_default(&self) -> bool {
        *self == OnMissing::default()
    }
}

/// The one rule of a [`Route`].
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// See [`Route::direct`].
    Direct(&'a Target),
    /// See [`Route::topic`].
    Topic(&'a Topic),
    /// See [`Route::fanout`].
    FanOut(&'a FanOut),
    /// See [`Route::weighted`].
    Weighted(&'a [Weighted]),
    /// See [`Route::shadow`].
    Shadow(&'a Shadow),
    /// See [`Route::chain`]. Its one target is the model that workers make of it.
    Chain(&'a ChainDefinition),
}

/// Every model whose routing key matches a pattern, answers joined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Over the models' `routing_key`, which is the model's name unless its
    /// settings say otherwise.
    pub pattern: Pattern,
    /// How several answers become one.
    #[serde(default)]
    pub join: Join,
    /// What a failing child means.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// Every target of a group at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FanOut {
    /// Who answers, at least one.
    pub targets: Vec<Target>,
    /// How the answers become one.
    #[serde(default)]
    pub join: Join,
    /// What a failing child means.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// How several answers become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// Every child's outputs, named `target.output`.
    #[default]
    All,
    /// The first child that succeeds.
    First,
    /// Per element the value most children gave (integers, booleans, bytes); a
    /// tie goes to the child named first.
    Majority,
    /// Per element the mean (FP32, FP64).
    Mean,
}

/// What a failing child of a group means. `first` fails only when all fail,
/// whatever stands here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The whole answer fails with the child's error.
    #[default]
    Fail,
    /// The answer is joined from the children that succeeded, at least one.
    Skip,
}

/// One target of a weighted route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Who answers.
    pub target: Target,
    /// Its share in percent, two decimals; all of a route's add up to 100.
    pub percent: f64,
}

impl Weighted {
    /// The share in hundredths of a percent.
    pub fn share(&self) -> u32 {
        (self.percent * 100.0).round() as u32
    }
}

/// A copy of each request to others, never affecting the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// Who answers.
    pub primary: Target,
    /// Who gets a copy; differences from the answer are counted.
    pub copies: Vec<Target>,
    /// Relative difference up to which float outputs count as equal.
    #[serde(default = "default_tolerance")]
    pub tolerance: f64,
}

fn default_tolerance() -> f64 {
    1e-4
}

impl Route {
    /// The route `name` to one target.
    pub fn to(name: &str, target: &Target) -> Route {
        Route {
            name: name.into(),
            direct: Some(target.clone()),
            topic: None,
            fanout: None,
            weighted: None,
            shadow: None,
            chain: None,
            on_missing: OnMissing::default(),
        }
    }

    /// The route's one rule.
    ///
    /// # Errors
    /// `invalid_parameter` when it has none or several.
    pub fn rule(&self) -> Result<Rule<'_>> {
        let mut rules = self.rules();
        match (rules.next(), rules.next()) {
            (Some(rule), None) => Ok(rule),
            (None, _) => {
                Err(self.invalid("says nothing; give it one of direct, topic, fanout, weighted, shadow, chain"))
            }
            (Some(_), Some(_)) => {
                Err(self.invalid("has several rules; keep one of direct, topic, fanout, weighted, shadow, chain"))
            }
        }
    }

    fn rules(&self) -> impl Iterator<Item = Rule<'_>> {
        [
            self.direct.as_ref().map(Rule::Direct),
            self.topic.as_ref().map(Rule::Topic),
            self.fanout.as_ref().map(Rule::FanOut),
            self.weighted.as_deref().map(Rule::Weighted),
            self.shadow.as_ref().map(Rule::Shadow),
            self.chain.as_ref().map(Rule::Chain),
        ]
        .into_iter()
        .flatten()
    }

    /// Every target the rule names, in its order; a topic names none.
    pub fn targets(&self) -> Vec<&Target> {
        self.rules()
            .flat_map(|rule| match rule {
                Rule::Direct(target) => vec![target],
                Rule::Topic(_) => vec![],
                Rule::FanOut(fanout) => fanout.targets.iter().collect(),
                Rule::Weighted(shares) => shares.iter().map(|weighted| &weighted.target).collect(),
                Rule::Shadow(shadow) => std::iter::once(&shadow.primary).chain(&shadow.copies).collect(),
                Rule::Chain(_) => vec![&self.name],
            })
            .collect()
    }

    /// Checks what can be seen without any other route or model.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the route, the value and the remedy.
    pub fn check(&self) -> Result<()> {
        if self.name.is_empty()
            || self.name.len() > 128
            || self.name.contains(['/', ':', ' ', '\\'])
            || self.name == ".."
        {
            return Err(self.invalid("has no usable name; take 1 to 128 characters without `/`, `:`, `\\` and spaces"));
        }
        let rule = self.rule()?;
        if self.on_missing == OnMissing::Fail && !matches!(rule, Rule::Weighted(_)) {
            return Err(self.invalid("has on_missing, which only a weighted route takes; a group has on_failure"));
        }
        match rule {
            Rule::Direct(_) | Rule::Topic(_) => {}
            Rule::Chain(chain) => {
                chain::check(&self.name, chain).map_err(|error| self.invalid(&format!("is no chain: {error}")))?;
                self.check_models(chain)?;
            }
            Rule::FanOut(fanout) => self.check_group("fanout.targets", &fanout.targets)?,
            Rule::Shadow(shadow) => {
                self.check_group("shadow.copies", &shadow.copies)?;
                if !(0.0..=1.0).contains(&shadow.tolerance) {
                    let has = format!("has tolerance {}; take 0 to 1, such as 0.0001", shadow.tolerance);
                    return Err(self.invalid(&has));
                }
            }
            Rule::Weighted(shares) => {
                if let Some(odd) = shares.iter().find(|weighted| !(0.0..=100.0).contains(&weighted.percent)) {
                    let has = format!("gives `{}` {} percent; take 0 to 100", odd.target, odd.percent);
                    return Err(self.invalid(&has));
                }
                let sum: u32 = shares.iter().map(Weighted::share).sum();
                if sum != WHOLE {
                    let has = format!("has weights that add up to {}; make them 100", f64::from(sum) / 100.0);
                    return Err(self.invalid(&has));
                }
            }
        }
        for target in self.targets() {
            if target.is_empty() {
                return Err(self.invalid("has an empty target; name a model, `model/version` or a route"));
            }
        }
        Ok(())
    }

    /// A worker takes up the chains of whose models it has one.
    fn check_models(&self, chain: &ChainDefinition) -> Result<()> {
        match chain.steps.iter().any(|step| step.model.is_some()) {
            true => Ok(()),
            false => Err(self.invalid(
                "is a chain of functions alone, which no worker takes up; give it a step with a model, or make it a \
                 model's folder",
            )),
        }
    }

    fn check_group(&self, field: &str, targets: &[Target]) -> Result<()> {
        if targets.is_empty() || targets.len() > 64 {
            let has = format!("has {} {field}; name 1 to 64", targets.len());
            return Err(self.invalid(&has));
        }
        match targets.iter().enumerate().find(|(at, target)| targets[..*at].contains(target)) {
            Some((_, twice)) => Err(self.invalid(&format!("names `{twice}` twice in {field}; name it once"))),
            None => Ok(()),
        }
    }

    /// An `invalid_parameter` about this route.
    pub fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("route `{}` {what}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(json: serde_json::Value) -> Route {
        serde_json::from_value(json).expect("a route")
    }

    #[test]
    fn each_misfit_names_the_value_and_the_remedy() {
        let refused = |json| route(json).check().expect_err("refused").message;
        assert!(refused(serde_json::json!({"name": "r"})).contains("give it one of direct, topic"));
        assert!(refused(serde_json::json!({"name": "a/b", "direct": "m"})).contains("no usable name"));
        assert!(refused(serde_json::json!({"name": "a:b", "direct": "m"})).contains("no usable name"));
        assert!(
            refused(serde_json::json!({"name": "r", "direct": "m", "fanout": {"targets": ["m"]}}))
                .contains("several rules")
        );
        let weights = serde_json::json!({"name": "r", "weighted": [{"target": "a", "percent": 90}, {"target": "b", "percent": 5}]});
        assert_eq!(refused(weights), "route `r` has weights that add up to 95; make them 100");
        let over = serde_json::json!({"name": "r", "weighted": [{"target": "a", "percent": 110}, {"target": "b", "percent": -10}]});
        assert!(refused(over).contains("gives `a` 110 percent; take 0 to 100"));
        assert!(refused(serde_json::json!({"name": "r", "weighted": []})).contains("add up to 0"));
        assert!(
            refused(serde_json::json!({"name": "r", "fanout": {"targets": ["m", "m"]}})).contains("names `m` twice")
        );
        assert!(refused(serde_json::json!({"name": "r", "shadow": {"primary": "m", "copies": []}})).contains("has 0"));
        assert!(refused(serde_json::json!({"name": "r", "direct": ""})).contains("empty target"));
        let itself = serde_json::json!({"name": "r", "chain": {"steps": [{"model": "r"}]}});
        assert!(refused(itself).contains("step `r` (model `r`) is the chain itself"));
        let chain = |steps: serde_json::Value| serde_json::json!({"name": "r", "chain": {"steps": steps}});
        let unknown = refused(chain(serde_json::json!([{"model": "m"}, {"use": "nothing"}])));
        assert!(unknown.contains("no function `nothing`; functions: crop, picture"), "{unknown}");
        let step = serde_json::json!({"name": "cut", "use": "crop", "settings": {"turn_above": "tall"}});
        let setting = refused(chain(serde_json::json!([{"model": "m"}, step])));
        let says =
            "route `r` is no chain: step `cut` (function `crop`): setting `turn_above` is `\"tall\"`; expected f64";
        assert!(setting.starts_with(says), "{setting}");
        let alone = refused(chain(serde_json::json!([{"use": "picture"}])));
        assert!(alone.contains("functions alone"), "{alone}");
        let direct = serde_json::json!({"name": "r", "direct": "m", "on_missing": "fail"});
        assert!(refused(direct).contains("only a weighted route takes"));
    }

    #[test]
    fn thirds_with_two_decimals_add_up() {
        let json = serde_json::json!({"name": "r", "weighted": [
            {"target": "a", "percent": 33.33}, {"target": "b", "percent": 33.33}, {"target": "c", "percent": 33.34}]});
        route(json).check().expect("adds up");
    }

    #[test]
    fn unknown_members_and_joins_are_refused() {
        assert!(serde_json::from_value::<Route>(serde_json::json!({"name": "r", "dirct": "m"})).is_err());
        let join = serde_json::json!({"name": "r", "fanout": {"targets": ["m"], "join": "median"}});
        let message = serde_json::from_value::<Route>(join).expect_err("refused").to_string();
        assert!(message.contains("`median`") && message.contains("`majority`"), "{message}");
    }
}

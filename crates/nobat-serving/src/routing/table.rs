//! The routes of a deployment, checked together.

use std::collections::HashMap;
use std::sync::Arc;

use nobat_core::Result;
use smol_str::SmolStr;

use super::route::Route;

/// A checked set of routes; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Arc<HashMap<SmolStr, Route>>,
}

impl Table {
    /// Checks routes one by one and together.
    ///
    /// # Errors
    /// `invalid_parameter` for a route that is wrong by itself, a name given
    /// twice, or a cycle, which is spelled out.
    pub fn build(routes: impl IntoIterator<Item = Route>) -> Result<Table> {
        let mut by_name = HashMap::new();
        for route in routes {
            route.check()?;
            if let Some(twice) = by_name.insert(route.name.clone(), route) {
                return Err(twice.invalid("is declared twice; rename one"));
            }
        }
        let table = Table { routes: Arc::new(by_name) };
        for name in table.routes.keys() {
            table.refuse_cycle(name, &mut Vec::new())?;
        }
        Ok(table)
    }

    /// The same table with `route` added or replaced.
    ///
    /// # Errors
    /// As [`Table::build`].
    pub fn with(&self, route: Route) -> Result<Table> {
        let others = self.routes.values().filter(|other| other.name != route.name).cloned();
        Table::build(others.chain([route.clone()]))
    }

    /// Every route, by name.
    pub fn routes(&self) -> Vec<&Route> {
        let mut routes: Vec<_> = self.routes.values().collect();
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        routes
    }

    /// The route of this name.
    pub fn get(&self, name: &str) -> Option<&Route> {
        self.routes.get(name)
    }

    /// The route that `target` means inside `within`: a route's own name inside
    /// its own targets is the model it stands for.
    pub(super) fn follow(&self, within: &Route, target: &str) -> Option<&Route> {
        if target == within.name { None } else { self.routes.get(target) }
    }

    fn refuse_cycle<'a>(&'a self, name: &'a str, path: &mut Vec<&'a str>) -> Result<()> {
        let Some(route) = self.routes.get(name) else { return Ok(()) };
        if let Some(start) = path.iter().position(|&earlier| earlier == name) {
            let mut cycle = path[start..].to_vec();
            cycle.push(name);
            let what = format!("is part of the cycle {}; let one of them name a model", cycle.join(" -> "));
            return Err(route.invalid(&what));
        }
        path.push(name);
        for target in route.targets() {
            if let Some(next) = self.follow(route, target) {
                self.refuse_cycle(&next.name, path)?;
            }
        }
        path.pop();
        Ok(())
    }
}

/// A target's model and version; the version is empty when it names none.
pub(super) fn split_version(target: &str) -> (&str, &str) {
    target.split_once('/').unwrap_or((target, ""))
}

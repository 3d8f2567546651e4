//! Lists in OpenAI's pages: the newest first, from after an id on.

use actix_web::HttpRequest;
use nobat_core::{Error, Result, clip};
use serde_json::{Value, json};

use crate::query;

/// What a list's query asks for.
pub(super) struct PageQuery {
    limit: usize,
    after: Option<String>,
    is_ascending: bool,
    pub(super) purpose: Option<String>,
}

impl PageQuery {
    /// Reads `limit` (of at most `most`), `after`, and where they are `known`, `order` and `purpose`.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub(super) fn read(
        request: &HttpRequest,
        known: &[&'static str],
        default: usize,
        most: usize,
    ) -> Result<PageQuery> {
        let mut page = PageQuery { limit: default, after: None, is_ascending: false, purpose: None };
        query::each(request.query_string(), known, |name, value| {
            match name {
                "limit" => page.limit = query::number(name, value, 1, most)?,
                "after" => page.after = Some(value.to_owned()),
                "purpose" => page.purpose = Some(value.to_owned()),
                _ => {
                    page.is_ascending = match value {
                        "asc" => true,
                        "desc" => false,
                        other => {
                            return Err(Error::invalid(format!("order is `{}`; it takes asc or desc", clip(other))));
                        }
                    }
                }
            }
            Ok(())
        })?;
        Ok(page)
    }

    /// The page of `all`, which has the newest first.
    ///
    /// # Errors
    /// `invalid_parameter` for an `after` that is not among them.
    pub(super) fn of<T>(
        &self,
        mut all: Vec<T>,
        id: impl Fn(&T) -> &str,
        object: impl Fn(&T) -> Value,
    ) -> Result<Value> {
        if self.is_ascending {
            all.reverse();
        }
        let begin = match &self.after {
            None => 0,
            Some(after) => match all.iter().position(|one| id(one) == after) {
                Some(at) => at + 1,
                None => return Err(Error::invalid(format!("after is `{}`, which is not in the list", clip(after)))),
            },
        };
        let shown = &all[begin..all.len().min(begin + self.limit)];
        Ok(json!({
            "object": "list",
            "data": shown.iter().map(object).collect::<Vec<_>>(),
            "first_id": shown.first().map(&id),
            "last_id": shown.last().map(&id),
            "has_more": begin + shown.len() < all.len(),
        }))
    }
}

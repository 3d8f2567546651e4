//! Models on disk and on their way into service: which folders are models ([`scan`]),
//! what their settings say, whether their files may be opened ([`guard`]), whether their
//! rows are independent ([`rows`], [`independence`]), what makes texts of them
//! ([`transforms`]), which are chains of others ([`chains`]), and the thread that loads and swaps
//! them ([`loader`], [`install`]).

pub(crate) mod chain_load;
pub(crate) mod chains;
pub(crate) mod files;
pub(crate) mod golden;
pub(crate) mod guard;
pub(crate) mod independence;
pub(crate) mod install;
pub(crate) mod load;
pub(crate) mod loader;
pub(crate) mod manifest;
pub(crate) mod memory;
mod pbtxt;
pub(crate) mod profile;
pub mod rows;
pub(crate) mod scan;
pub(crate) mod settings;
pub(crate) mod transforms;
mod version_loads;

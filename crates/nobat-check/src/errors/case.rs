//! The ways to be wrong.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum BadCase {
    WrongDatatype,
    WrongRank,
    WrongLength,
    Ragged,
    MissingInput,
    ExtraInput,
    NotANumber,
    Infinite,
    EmptyBatch,
    OverTheBatch,
    Oversize,
    NotJson,
    WrongContentType,
    UnknownModel,
    UnknownVersion,
    WrongKey,
    ExpiredDeadline,
    OtherBodySameKey,
}

impl BadCase {
    /// All, those of the tensors first.
    pub const ALL: [BadCase; 18] = [
        BadCase::WrongDatatype,
        BadCase::WrongRank,
        BadCase::WrongLength,
        BadCase::Ragged,
        BadCase::MissingInput,
        BadCase::ExtraInput,
        BadCase::NotANumber,
        BadCase::Infinite,
        BadCase::EmptyBatch,
        BadCase::OverTheBatch,
        BadCase::Oversize,
        BadCase::NotJson,
        BadCase::WrongContentType,
        BadCase::UnknownModel,
        BadCase::UnknownVersion,
        BadCase::WrongKey,
        BadCase::ExpiredDeadline,
        BadCase::OtherBodySameKey,
    ];

    /// As reports name it.
    pub const fn id(self) -> &'static str {
        match self {
            BadCase::WrongDatatype => "wrong_datatype",
            BadCase::WrongRank => "wrong_rank",
            BadCase::WrongLength => "wrong_length",
            BadCase::Ragged => "ragged",
            BadCase::MissingInput => "missing_input",
            BadCase::ExtraInput => "extra_input",
            BadCase::NotANumber => "not_a_number",
            BadCase::Infinite => "infinite",
            BadCase::EmptyBatch => "empty_batch",
            BadCase::OverTheBatch => "over_the_batch",
            BadCase::Oversize => "oversize",
            BadCase::NotJson => "not_json",
            BadCase::WrongContentType => "wrong_content_type",
            BadCase::UnknownModel => "unknown_model",
            BadCase::UnknownVersion => "unknown_version",
            BadCase::WrongKey => "wrong_key",
            BadCase::ExpiredDeadline => "expired_deadline",
            BadCase::OtherBodySameKey => "idempotency_mismatch",
        }
    }

    /// In words.
    pub const fn title(self) -> &'static str {
        match self {
            BadCase::WrongDatatype => "an input of another datatype",
            BadCase::WrongRank => "an input with an axis more",
            BadCase::WrongLength => "an input that is too long",
            BadCase::Ragged => "an input whose rows differ in length",
            BadCase::MissingInput => "an input that is missing",
            BadCase::ExtraInput => "an input that the model does not have",
            BadCase::NotANumber => "NaN as JSON",
            BadCase::Infinite => "a number beyond all floats",
            BadCase::EmptyBatch => "a batch without rows",
            BadCase::OverTheBatch => "more rows than a request may have",
            BadCase::Oversize => "a body that is too large",
            BadCase::NotJson => "a body that is no JSON",
            BadCase::WrongContentType => "a body that is a form",
            BadCase::UnknownModel => "a model that nobody serves",
            BadCase::UnknownVersion => "a version that nobody serves",
            BadCase::WrongKey => "a wrong API key",
            BadCase::ExpiredDeadline => "a deadline that cannot be met",
            BadCase::OtherBodySameKey => "an idempotency key again, with another body",
        }
    }
}

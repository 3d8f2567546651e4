//! The protocols made for texts against a real listener over the embedded queue, with
//! models that answer as their tasks say.

mod batches;
mod bulk;
mod files;
mod house;
mod openai;
mod rerankers;
mod tei;

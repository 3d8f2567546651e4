//! Routes and webhooks over a real listener and the embedded queue, with models
//! that answer, dawdle, fail or hang as a test says.

mod events;
mod house;
mod jobs;
mod keys;
mod refusals;
mod routes;
mod starting;

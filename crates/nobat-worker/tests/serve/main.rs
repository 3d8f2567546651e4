//! A whole worker on real models, over the embedded queue.

mod bad_input;
mod batched;
mod chains;
mod classes;
mod deployment;
mod first_day;
mod hostile;
mod lifecycle;
mod reload;
mod rows;
mod shapes;
mod text_answers;
mod texts;
mod weighted;

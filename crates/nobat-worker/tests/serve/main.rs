//! A whole worker on real models, over the embedded queue.

mod bad_input;
mod batched;
mod chains;
mod classes;
mod deployment;
mod files;
mod first_day;
mod hostile;
mod image_answers;
mod images;
mod lifecycle;
mod reload;
mod rows;
mod shapes;
mod text_answers;
mod texts;
mod weighted;

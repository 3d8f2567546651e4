//! Pictures in, labels, boxes, masks and vectors out.

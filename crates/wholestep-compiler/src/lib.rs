//! The whole-step compiler.

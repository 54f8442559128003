//! The store through its public surface. No test needs a network: the hub is a server on loopback,
//! pip is a script in a temporary folder.

mod cache;
mod hub;
mod local;
mod process;
mod python;
mod server;
mod support;

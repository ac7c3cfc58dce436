//! What of a client's request reaches the API. Sent byte for byte: client libraries repair.

mod framing;
mod http2;
mod names;
mod paths;
mod size;
mod steering;
mod trailers;

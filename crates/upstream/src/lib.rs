//! A generator over OpenAI-compatible servers.

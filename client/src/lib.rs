//! Client for etcd's v3 API.

//! A simulated Kubernetes API server with pods that start, finish, resize and die

"""What a job costs on the host of a GPU, measured without one: the real worker, Kafka and PostgreSQL, and libraries of
the device in which nothing is computed."""

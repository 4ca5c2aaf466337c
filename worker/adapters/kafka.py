"""Kafka's adapters under one name: the job source, the publisher and the topics."""

from __future__ import annotations

from worker.adapters.kafka_publisher import KafkaPublisher
from worker.adapters.kafka_source import KafkaSource
from worker.adapters.topics import TopicChange, apply_topics, plan_topics

__all__ = ["KafkaPublisher", "KafkaSource", "TopicChange", "apply_topics", "plan_topics"]

"""Closed sets of codes. Every rejection, unusable view and reason has exactly one of them; docs/contract lists each."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    AUTHENTIC = "authentic"
    COUNTERFEIT = "counterfeit"
    INCONCLUSIVE = "inconclusive"


class ErrorCode(StrEnum):
    """Why a job became a dead letter."""

    MALFORMED_ENVELOPE = "malformed_envelope"  # headers or content type
    MALFORMED_PAYLOAD = "malformed_payload"  # not Avro or JSON, or not the schema's types
    UNSUPPORTED_VERSION = "unsupported_version"
    INVALID_JOB = "invalid_job"  # well-typed, but a field breaks a rule of the contract
    MESSAGE_TOO_LARGE = "message_too_large"
    NO_VIEWS = "no_views"
    DUPLICATE_VIEWS = "duplicate_views"
    TOO_MANY_VIEWS = "too_many_views"
    KEY_MISMATCH = "key_mismatch"
    JOB_ID_CONFLICT = "job_id_conflict"
    NO_USABLE_VIEW = "no_usable_view"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    RETRIES_EXHAUSTED = "retries_exhausted"
    POISON = "poison"
    INTERNAL_ERROR = "internal_error"  # the worker's own code raised on this job alone
    EVIDENCE_GONE = "evidence_gone"  # a re-evaluation needs a photograph or a probe that is kept no longer
    NOTHING_TO_SUPERSEDE = "nothing_to_supersede"  # a re-evaluation of a verdict that there is not
    ERASED = "erased"  # the job was answered once, and its data erased since


class ViewCode(StrEnum):
    """Why one view of a job could not be used. The job is judged on the others."""

    UNDECODABLE = "undecodable"
    TRUNCATED = "truncated"
    DIGEST_MISMATCH = "digest_mismatch"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    TYPE_NOT_ALLOWED = "type_not_allowed"
    URI_NOT_ALLOWED = "uri_not_allowed"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"
    DECODER_CRASHED = "decoder_crashed"
    ENCODER_FAILED = "encoder_failed"
    UNKNOWN_VIEW = "unknown_view"
    TOO_SMALL = "too_small"


class ReasonCode(StrEnum):
    """Why a verdict is what it is. A reason may name the view it concerns."""

    # evidence
    CONSISTENT_WITH_REFERENCES = "consistent_with_references"
    DEVIATES_FROM_REFERENCES = "deviates_from_references"
    MATCHES_KNOWN_COUNTERFEIT = "matches_known_counterfeit"
    RESEMBLES_OTHER_SKU = "resembles_other_sku"
    VIEWS_DISAGREE = "views_disagree"
    CRITICAL_VIEW_VETO = "critical_view_veto"
    # cannot tell
    AMBIGUOUS = "ambiguous"
    UNLIKE_ANYTHING_KNOWN = "unlike_anything_known"
    NO_REFERENCES = "no_references"
    TOO_FEW_REFERENCES = "too_few_references"
    NO_CALIBRATION = "no_calibration"
    TOO_FEW_CALIBRATION_SAMPLES = "too_few_calibration_samples"
    NO_CATEGORY_PROFILE = "no_category_profile"
    MISSING_REQUIRED_VIEW = "missing_required_view"
    SCORE_NEAR_THRESHOLD = "score_near_threshold"
    UNUSABLE_SCORE = "unusable_score"
    # what to re-take
    VIEW_UNUSABLE = "view_unusable"
    VIEW_BLURRED = "view_blurred"
    VIEW_BADLY_EXPOSED = "view_badly_exposed"
    VIEW_GLARE = "view_glare"
    VIEW_WRONG_ROLE = "view_wrong_role"
    VIEW_MISFRAMED = "view_misframed"
    DUPLICATE_PHOTOGRAPH = "duplicate_photograph"
    IMAGE_REUSED = "image_reused"
    VIEW_OF_OTHER_ITEM = "view_of_other_item"


class AlertKind(StrEnum):
    """What an alert says has happened."""

    REPEATED_COUNTERFEIT = "repeated_counterfeit"  # counterfeit verdicts that belong together
    ENGINE_DEGRADED = "engine_degraded"  # a worker serves with a fallback engine
    CALIBRATION_STALE = "calibration_stale"  # what comes in has drifted from what the score calibration was fitted on
    ENGINE_RELEASE = "engine_release"  # a candidate engine was promoted, taken back or held


class AlertLink(StrEnum):
    """What ties the jobs of a repeated counterfeit together."""

    SERIAL = "serial"
    SUBMITTER = "submitter"
    EMBEDDING = "embedding"
    PHOTOGRAPH = "photograph"

"""What an upload brings, and what the service says about it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class UploadOptions(BaseModel):
    """Name of an uploaded file, and what its columns are called; see the `data` section of the configuration."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(default="data.csv", min_length=1, max_length=200)
    """What the file is called; only its last part is kept, and only for people."""
    id_col: str | None = Field(default=None, max_length=200)
    """Column with the series' name; left out, it is found."""
    time_col: str | None = Field(default=None, max_length=200)
    """Column with the time; left out, it is found."""
    target_col: str | None = Field(default=None, max_length=200)
    """Column to forecast; left out, it is found."""
    freq: str | None = Field(default=None, max_length=20)
    """Step between rows, such as h, D or W-MON; left out, it is inferred."""

    def columns(self) -> dict[str, str]:
        """The settings of the `data` section that were given."""
        return {key: value for key, value in self.model_dump(exclude={"name"}).items() if value is not None}


class AuditCounts(BaseModel):
    """Findings of the audit by severity."""

    error: int
    warning: int
    info: int


class AuditFinding(BaseModel):
    """One finding of the audit."""

    code: str
    severity: str
    """error, warning or info."""
    series: str | None
    row: int | None
    """Line of the file, 1 is the first."""
    count: int
    """Rows concerned."""
    message: str
    fix: str
    """What could be done; nothing has been done."""


class DatasetSummary(BaseModel):
    """A data set that jobs can train on."""

    id: str
    """Hash of the content: the same file has the same id."""
    name: str
    num_bytes: int
    uploaded_at: str
    columns: dict[str, Any]
    """Settings of the `data` section that it is read with, where they differ from the defaults."""
    summary: dict[str, Any]
    """What the file holds: rows, series, start, end, freq, season_length and the like."""
    counts: AuditCounts


class DatasetBody(DatasetSummary):
    """A data set with the findings of its audit."""

    problems: list[AuditFinding]
    """The first fifty findings, the worst first."""


class DatasetList(BaseModel):
    """Every data set, the newest first."""

    datasets: list[DatasetSummary]


class PreviewSeries(BaseModel):
    """The last steps of one series."""

    unique_id: str
    ds: list[str | int]
    y: list[float | None]
    num_steps: int
    """Steps of the whole series, gaps included."""


class DatasetPreview(BaseModel):
    """The end of the first series of a data set, on its regular grid."""

    freq: str
    season_length: int
    time_kind: str
    target: str
    num_series: int
    series: list[PreviewSeries]

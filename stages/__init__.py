"""What happens to text. `STAGES` names each stage's class as a string, so that nothing loads until it is asked for."""

STAGES: dict[str, str] = {
    "ingest": "stages.ingest:Ingest",
    "extract": "stages.extract:Extract",
    "clean": "stages.clean:Clean",
    "language": "stages.language:Language",
    "quality": "stages.quality:Quality",
    "exact_dedup": "stages.exact_dedup:ExactDedup",
    "near_dedup": "stages.near_dedup:NearDedup",
    "tokenizer": "stages.tokenizer:Tokenizer",
    "pack": "stages.pack:Pack",
    "train": "stages.train:Train",
}

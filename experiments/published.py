"""Published figures under the protocols of docs/results.md, which the page shows next to ours."""

PUBLISHED = {
    "ml-1m": (
        ("SASRec, binary cross-entropy, 1 negative", 0.2500, 0.1341, "antklen/sasrec-bert4rec-recsys23"),
        ("GRU4Rec", 0.2811, 0.1648, "quoted by meta-recsys/generative-recommenders"),
        ("gSASRec, 256 negatives", 0.3003, 0.1726, "asash/gSASRec-pytorch"),
        ("SASRec, full softmax", 0.3152, 0.1821, "antklen/sasrec-bert4rec-recsys23"),
        ("SASRec, 3,000 sampled negatives", 0.3159, 0.1857, "antklen/sasrec-bert4rec-recsys23"),
    ),
    "Beauty": (
        ("GRU4Rec", 0.0283, 0.0137, "RUCAIBox/CIKM2020-S3Rec"),
        ("BERT4Rec", 0.0347, 0.0170, "RUCAIBox/CIKM2020-S3Rec"),
        ("SASRec", 0.0605, 0.0318, "RUCAIBox/CIKM2020-S3Rec"),
        ("S3-Rec", 0.0647, 0.0327, "RUCAIBox/CIKM2020-S3Rec"),
        ("TIGER", 0.0648, 0.0384, "quoted by the authors of eSASRec"),
        ("HSTU", 0.0788, 0.0439, "quoted by the authors of eSASRec"),
        ("SASRec, sampled softmax", 0.0921, 0.0531, "the authors of eSASRec, who drop 52 users with a cold target"),
        ("eSASRec", 0.0928, 0.0523, "its authors"),
    ),
    "LastFM": (
        ("GRU4Rec", 0.0367, 0.0187, "RUCAIBox/CIKM2020-S3Rec"),
        ("BERT4Rec", 0.0633, 0.0337, "RUCAIBox/CIKM2020-S3Rec"),
        ("SASRec", 0.0688, 0.0390, "RUCAIBox/CIKM2020-S3Rec"),
        ("S3-Rec", 0.0743, 0.0427, "RUCAIBox/CIKM2020-S3Rec"),
    ),
    "Toys": (
        ("SASRec", 0.0675, 0.0374, "RUCAIBox/CIKM2020-S3Rec"),
        ("S3-Rec", 0.0700, 0.0376, "RUCAIBox/CIKM2020-S3Rec"),
        ("TIGER", 0.0712, 0.0432, "quoted by the authors of eSASRec"),
        ("eSASRec", 0.0939, 0.0538, "blondered/transformer_benchmark"),
        ("SASRec, sampled softmax, 256 negatives", 0.0970, 0.0580, "blondered/transformer_benchmark"),
    ),
}
"""Per data set, named as its file is: model, HR@10 and NDCG@10 as published under the same protocol, source."""

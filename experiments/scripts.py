"""The training scripts by the names of what they train, for those that read what one of them left."""

import bert4rec
import esasrec
import generative
import gru4rec
import gsasrec
import hawk
import hstu
import sasrec
import seq2seq

_MODULES = (sasrec, gsasrec, esasrec, bert4rec, gru4rec, hstu, hawk, seq2seq, generative)
TRAINING = {module.__name__: module for module in _MODULES}

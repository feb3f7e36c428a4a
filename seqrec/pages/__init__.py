"""HTML pages that open offline: documents, tables and plots, shared by reports and A/B analysis."""

"""placeholder until the report author writes theirs"""
def write_report(folder): return folder
def summary_table(summary): return str(summary)

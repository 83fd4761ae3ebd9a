"""stub"""
from ..read.extra import part as reported
from ..render.document import Part, Section
@reported
def part(run, scores):
    return Part((Section("extraction", "Model extraction"),))

from django.conf import settings
from django.http import JsonResponse
from django.urls import re_path

from told import tell

urlpatterns = [re_path("", lambda request: JsonResponse(tell(settings.NAME, request.environ)))]

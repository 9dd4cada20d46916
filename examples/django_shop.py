"""A Django project in one file whose logins, admin and refused requests are audited, and its orders, by decorator.

    python -m examples.django_shop migrate
    python -m examples.django_shop createsuperuser
    python -m examples.django_shop runserver 8080
    python -m examples.django_shop audit show

Where it keeps database and archive the environment says: ``SHOP_DIRECTORY``, by default the current one. Servers find
``examples.django_shop:application`` (WSGI) and ``examples.django_shop:asgi_application``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.conf import settings

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", ".")).absolute()

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost", "testserver"],
    AUTH_PASSWORD_VALIDATORS=[],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DIRECTORY / "shop.sqlite3"}},
    DEBUG=os.environ.get("SHOP_DEBUG") == "1",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "otel_audit.integrations.django",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
    ],
    LOGIN_URL="/admin/login/",
    MIDDLEWARE=[
        "otel_audit.integrations.django.middleware.AuditMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    OTEL_AUDIT={"ARCHIVE": DIRECTORY / "audit.db", "HOST": "shop.example", "TRUSTED_PROXIES": 1},
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SHOP_SECRET", "an example: keep yours secret, and out of the source"),
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ],
            },
        },
    ],
    USE_TZ=True,
)

import django  # noqa: E402 - the settings come first

django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth.decorators import login_required, permission_required  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

from otel_audit.integrations.audited import audited  # noqa: E402

ORDERS = {1: "alice", 2: "alice", 3: "bob"}


@login_required
@audited("order.viewed", target=lambda number: number)
def view_order(_request: HttpRequest, number: int) -> HttpResponse:
    """Show an order."""
    if number not in ORDERS:
        raise Http404
    return JsonResponse({"number": number, "of": ORDERS[number]})


@csrf_exempt
@permission_required("auth.delete_user", raise_exception=True)
def close_shop(_request: HttpRequest) -> HttpResponse:
    """Do what only few may."""
    return HttpResponse("closed")


@audited("order.exported")
async def export_orders(request: HttpRequest) -> HttpResponse:
    """Export all orders, asynchronously."""
    user = await request.auser()
    if not user.is_authenticated:
        return HttpResponse(status=401)
    return JsonResponse({str(number): name for number, name in ORDERS.items()})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/<int:number>/", view_order),
    path("close/", close_shop),
    path("export/", export_orders),
]

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    # `runserver` restarts itself as a module, and its parent is this one.
    execute_from_command_line(sys.argv)
else:
    application = get_wsgi_application()
    asgi_application = get_asgi_application()
